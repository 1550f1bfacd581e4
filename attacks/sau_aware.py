"""An attacker who knows SAU and maximises its terms while poisoning; a design of this project, from
the equations of SAU (Wei, Zhang, Zha & Wu, NeurIPS 2023, arXiv 2307.10562)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sau_bench.attacks.wrapped import Wrapped
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Batch
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class SAUAware(Wrapped):
    """The victim is as sure as it can be of the wrong class of the examples that SAU will unlearn.

    SAU minimises L_sar at examples e* that it finds against the current model f and the backdoored
    one f0 (equation 13). When it starts, f = f0, the model that the attacker hands over. There the
    divergence in L_share (equation 11) is 0 for every e, and L_adv (equation 10) is the
    cross-entropy of one model, so that the search climbs CE(f(x + e), y) from e = +eps until the
    class changes. The attacker makes the same search while training and solves

        min over theta of  E[CE(f(x), y)] - weight E[L_sar(x + e*)]
        L_sar(x') = -log(1 - p_b(x')),  b the class that f predicts on x'     (equation 12)

    over the poisoned training set, L_sar counted where b is neither y nor the class of x. SAU's
    code adds 1e-6 to 1 - p_b, so that from L_sar of about 14 on its gradient vanishes: examples
    that the victim is that sure of can hardly be unlearned.

    attack: the attack, as in a config's `attacks`. weight: of L_sar, 0 or more. cap: of L_sar, in
    nats, above 0; beyond it a term is constant. eps: bound of SAU's search, in pixels of [0, 1],
    above 0 and at most 10. step: sign step of it, the same. steps: of it, 1 to 10,000.

    Note: examples are searched in evaluation mode, as SAU sees the model, and not clipped to
    [0, 1], as in SAU. Images and examples pass through the model as one batch: batch norm then
    counts both, and with statistics of images alone the term is won by their difference, at the
    cost of the accuracy (seen in a trial on 60 digits).
    """

    name: ClassVar[str] = "SAU-aware"
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    weight: float = 0.1
    cap: float = 20.0
    eps: float = 0.2
    step: float = 0.2
    steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "weight", least=0)
        check_range(self, "cap", above=0, most=1000)
        check_range(self, "eps", "step", above=0, most=10)
        check_range(self, "steps", least=1, most=10_000)

    @property
    def label(self) -> str:
        return f"{self.attack.label} (SAU-aware)"

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        x, y, _ = batch
        training = model.training
        model.eval()
        with torch.no_grad():
            clean = model(x).argmax(1)
        e = self.perturbation(model, x.detach(), y, clean)
        model.train(training)
        logits, perturbed = model(torch.cat((x, x + e))).chunk(2)
        bad = perturbed.argmax(1)
        l_sar = surprise(perturbed, bad).clamp_max(self.cap) * ((bad != y) & (bad != clean))
        return F.cross_entropy(logits, y) - self.weight * l_sar.mean()

    def perturbation(self, model: Classifier, x: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        """What SAU's inner maximisation finds when both its models are `model`, detached.

        Args:
            model: in evaluation mode.
            x, y: images, float (B, C, H, W) in [0, 1], and labels, int64 (B,).
            clean: predictions of the model on x, int64 (B,).
        """
        e = torch.full_like(x, self.eps)
        for _ in range(self.steps):
            e.requires_grad_()
            logits = model(x + e)
            # An image whose class has changed is shared, and moves no further.
            value = F.cross_entropy(logits, y, reduction="none") * (logits.argmax(1) == clean)
            (gradient,) = torch.autograd.grad(value.sum(), e)
            e = (e.detach() + self.step * gradient.sign()).clamp(-self.eps, self.eps)
        return e


def surprise(logits: Tensor, bad: Tensor) -> Tensor:
    """-log(1 - p_bad) of each image, (B,), exact however sure the model is.

    logits: (B, K). bad: a class of each image, int64 (B,).
    """
    others = logits.scatter(1, bad[:, None], -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)
