"""SAU: shared adversarial unlearning (Wei, Zhang, Zha & Wu, NeurIPS 2023, arXiv 2307.10562)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data import Images
from benchmark.errors import check_range
from benchmark.train import Recipe, fit
from defenses.base import Defense
from defenses.perturbation import (
    UNLEARNING,
    Flow,
    NormBall,
    PerturbationSet,
    Start,
    adversarial,
)
from models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class SAU(Defense):
    """Find adversarial examples that fool the current and the backdoored model alike, unlearn them.

    Equations 10 to 13. With f the current model, f0 the frozen backdoored one and x' = x + e:
    the inner maximisation is of lambda_3 L_adv + lambda_4 L_share, the outer minimisation of
    lambda_1 L_cl + lambda_2 L_sar. Defaults are the paper's, with the details of the authors' code:
    the search starts at +eps in every pixel, x' is not clipped, an example that is shared already
    stops moving, L_sar counts images whose prediction by f0 is wrong and has flipped.

    lambda_1 .. lambda_4: weights. norm: the set of perturbations; "ensemble" draws one of the
    other four for each batch (table 13). eps: bound of the L-infinity ball, in pixels of [0, 1].
    step: sign step, in the same unit. steps: of the inner maximisation. start: where it begins.
    generation, unlearning: "vanilla" replaces either half by that of adversarial training (table 6:
    A or C, B or D). recipe: Adam (amsgrad) at 1e-4, constant; batch norm frozen and no
    augmentation, both part of the method; 100 epochs (Tiny ImageNet: 20).

    Note: L1 and L2 balls have radius 500 and 10 (appendix B.4); the flow's radius 0.05 and
    step 0.025 are ours, the paper does not print them.
    """

    name: ClassVar[str] = "SAU"
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}

    lambda_1: float = 1.0
    lambda_2: float = 1.0
    lambda_3: float = 0.01
    lambda_4: float = 1.0
    norm: Literal["linf", "l2", "l1", "spatial", "ensemble"] = "linf"
    eps: float = 0.2
    step: float = 0.2
    steps: int = 5
    start: Start = "max"
    generation: Literal["shared", "vanilla"] = "shared"
    unlearning: Literal["shared", "vanilla"] = "shared"
    recipe: Recipe = UNLEARNING

    def __post_init__(self) -> None:
        check_range(self, "eps", "step", above=0)
        check_range(self, "steps", least=1)
        if self.recipe.augment or self.recipe.batch_norm != "frozen":
            raise ValueError("recipe: SAU needs augment: false and batch_norm: frozen")

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        backdoored = copy.deepcopy(model).eval().requires_grad_(False)
        sets = self.perturbation_sets()

        def loss(model: Classifier, x: Tensor, labels: Tensor) -> Tensor:
            y, clean0 = labels.unbind(1)
            logits = model(x)
            chosen = sets[0] if len(sets) == 1 else sets[int(torch.randint(len(sets), ()))]
            if self.generation == "shared":
                clean = logits.argmax(1)
                e = self.shared_examples(model, backdoored, chosen, x, y, clean, clean0)
            else:
                e = adversarial(model, chosen, x, y, self.steps)
            perturbed = chosen.apply(x, e)
            if self.unlearning == "vanilla":
                return F.cross_entropy(model(perturbed), y)
            with torch.no_grad():
                bad = backdoored(perturbed).argmax(1)
            unlearned = shared_risk(model(perturbed), bad, (bad != y) & (bad != clean0))
            return self.lambda_1 * F.cross_entropy(logits, y) + self.lambda_2 * unlearned

        # The backdoored model never changes and images are not augmented, so its clean predictions
        # are computed once for the whole run and travel beside the labels.
        clean0 = torch.cat([_predict(backdoored, data, rows) for rows in _parts(data)])
        paired = replace(data, y=torch.stack((data.y, clean0), 1))
        yield from fit(model, paired, self.recipe, loss=loss, additive=True)

    def perturbation_sets(self) -> list[PerturbationSet]:
        """The sets that the inner maximisation draws from."""
        sets: dict[str, PerturbationSet] = {
            "linf": NormBall(norm="linf", bound=self.eps, step=self.step, start=self.start),
            "l2": NormBall(norm="l2", bound=10.0, step=self.step, start=self.start),
            "l1": NormBall(norm="l1", bound=500.0, step=self.step, start=self.start),
            "spatial": Flow(bound=0.05, step=0.025, start="random"),
        }
        return list(sets.values()) if self.norm == "ensemble" else [sets[self.norm]]

    def shared_examples(
        self,
        model: nn.Module,
        backdoored: nn.Module,
        within: PerturbationSet,
        x: Tensor,
        y: Tensor,
        clean: Tensor,
        clean0: Tensor,
    ) -> Tensor:
        """Inner maximisation (equation 13): one perturbation for each image, detached.

        clean, clean0: predictions of the current and the backdoored model on x, int64 (B,).
        An image whose example is shared has no gradient left, so only the others are computed.
        """
        e = within.initial(x)
        active = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            part = e[active].requires_grad_()
            perturbed = within.apply(x[active], part)
            logits, logits0 = model(perturbed), backdoored(perturbed)
            value, shared = self.inner_loss(
                logits, logits0, y[active], clean[active], clean0[active]
            )
            (gradient,) = torch.autograd.grad(-value, part)
            e[active] = within.ascend(part.detach(), gradient)
            active = active[~shared]
            if not len(active):
                break
        return e

    def inner_loss(
        self, logits: Tensor, logits0: Tensor, y: Tensor, clean: Tensor, clean0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the inner maximisation minimises, summed over images, and which images are shared.

        L_adv (equation 10) is taken from the model that is not fooled yet, the Jensen-Shannon term
        (equation 11) from images that are not shared yet; "fooled" is measured against a model's
        own clean prediction (authors' code). logits: (B, K). Returns a scalar and bool (B,).
        """
        found, found0 = logits.argmax(1), logits0.argmax(1)
        fooled, fooled0 = found != clean, found0 != clean0
        shared = fooled & fooled0 & (found == found0)
        adv = F.cross_entropy(logits, y, reduction="none") * ~fooled
        adv0 = F.cross_entropy(logits0, y, reduction="none") * ~fooled0
        divergence = jensen_shannon(logits.softmax(1), logits0.softmax(1)) * ~shared
        value = -self.lambda_3 * (adv + adv0) / 2 + self.lambda_4 * divergence
        return value.sum(), shared


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of probabilities (B, K); (B,). Clamped at 1e-8."""
    p, q = p.clamp_min(1e-8), q.clamp_min(1e-8)
    log_m = ((p + q) / 2).log()
    return ((p * (p.log() - log_m)).sum(1) + (q * (q.log() - log_m)).sum(1)) / 2


def shared_risk(logits: Tensor, bad: Tensor, counted: Tensor) -> Tensor:
    """L_sar (equation 12): -log(1 - p_bad) where counted, summed and divided by the batch size.

    Two forms of the same term are averaged and clamped as in the authors' code, so that each is
    finite and its gradient ends once p_bad < 0.001. logits: (B, K); bad: int64 (B,); counted: bool
    (B,). Returns a scalar.
    """
    p = logits.softmax(1)
    q = p.gather(1, bad[:, None])[:, 0]
    rest = p.scatter(1, bad[:, None], 0).sum(1)
    first = -(1e-6 + rest.clamp_max(0.999)).log()
    second = -(1 + 1e-6 - q.clamp_min(0.001)).log()
    return ((first + second) / 2 * counted).sum() / len(logits)


def _parts(data: Images) -> tuple[Tensor, ...]:
    return torch.arange(len(data), device=data.y.device).split(1000)


@torch.no_grad()
def _predict(model: nn.Module, data: Images, rows: Tensor) -> Tensor:
    return model(data.floats(rows)).argmax(1)
