"""SAU: shared adversarial unlearning (Wei, Zhang, Zha & Wu, NeurIPS 2023, arXiv 2307.10562)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Batch, Recipe, fit
from sau_bench.defenses.base import Defense
from sau_bench.defenses.perturbation import (
    UNLEARNING,
    Flow,
    NormBall,
    PerturbationSet,
    Start,
    adversarial,
)
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class SAU(Defense):
    """Find adversarial examples that fool the current and the backdoored model alike, unlearn them.

    With f the current model, f0 the frozen backdoored one and x' = x + e (equation 13):

        min over theta of  lambda_1 L_cl(x, y) + lambda_2 L_sar(x + e*, y)
        where e* maximises  lambda_3 L_adv(x + e, y) + lambda_4 L_share(x + e)  over the set

    with L_adv of equation 10, L_share of equation 11 and L_sar of equation 12. Defaults are those
    of the paper, with the details of the authors' code: the search starts at +eps in every pixel,
    x' is not clipped, an example that is shared already stops moving, L_sar counts images whose
    class by f0 on x' is wrong and not its class on x.

    lambda_1, lambda_2, lambda_3, lambda_4: weights, 0 or more. norm: the set of perturbations;
    "ensemble" draws one of the other four for each batch (table 13). eps: bound of the L-infinity
    ball, in pixels of [0, 1], above 0 and at most 10. step: sign step, the same. steps: of the
    inner maximisation, 1 to 10,000. start: where it begins: at "max" +eps in every pixel, at "min"
    -eps, at "zero" no change, at "random" a uniform draw from [0, 1], projected. generation,
    unlearning: "vanilla" replaces either half by that of adversarial training (table 6: A or C, B
    or D); "vanilla" unlearning keeps the clean term and has CE(f(x + e), y) in place of L_sar.
    recipe: Adam (amsgrad) at 1e-4, constant; batch norm frozen and no augmentation, both part of
    the method; 100 epochs (Tiny ImageNet: 20).

    Note: the paper does not say whether its A + D has the clean term; `lambda_1: 0` leaves it out.
    L1 and L2 balls have radius 500 and 10 (appendix B.4); the radius 0.05 and the step 0.025 of the
    flow are choices of this project, the paper does not print them.
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
        check_range(self, "lambda_1", "lambda_2", "lambda_3", "lambda_4", least=0)
        check_range(self, "eps", "step", above=0, most=10)
        check_range(self, "steps", least=1, most=10_000)
        if self.recipe.augment or self.recipe.batch_norm != "frozen":
            raise ValueError("recipe: SAU needs augment: false and batch_norm: frozen")

    def canonical(self) -> dict[str, Any]:
        """With a revision of its own for "vanilla" unlearning, which had no clean term once."""
        changed = {"revision": 2} if self.unlearning == "vanilla" else {}
        return super().canonical() | changed

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        backdoored = copy.deepcopy(model).eval().requires_grad_(False)
        sets = self.perturbation_sets()
        # The backdoored model never changes and images are not augmented: its predictions on clean
        # images are computed once for the whole run.
        clean0 = predicted_classes(backdoored, data)

        def loss(model: Classifier, batch: Batch) -> Tensor:
            x, y, rows = batch
            logits = model(x)
            chosen = sets[0] if len(sets) == 1 else sets[int(torch.randint(len(sets), ()))]
            if self.generation == "shared":
                clean = logits.argmax(1)
                e = self.shared_examples(model, backdoored, chosen, x, y, clean, clean0[rows])
            else:
                e = adversarial(model, chosen, x, y, self.steps)
            perturbed = chosen.apply(x, e)
            l_cl = F.cross_entropy(logits, y)
            if self.unlearning == "vanilla":
                return self.lambda_1 * l_cl + self.lambda_2 * F.cross_entropy(model(perturbed), y)
            with torch.no_grad():
                bad = backdoored(perturbed).argmax(1)
            l_sar = shared_risk(model(perturbed), bad, (bad != y) & (bad != clean0[rows]))
            return self.lambda_1 * l_cl + self.lambda_2 * l_sar

        yield from fit(model, data, self.recipe, loss=loss)

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

        Args:
            model, backdoored: f and f0, both in evaluation mode.
            within: the set of perturbations.
            x, y: images, float (B, C, H, W) in [0, 1], and labels, int64 (B,).
            clean, clean0: predictions of f and f0 on x, int64 (B,).
        """
        e = within.initial(x)
        # An image whose example is shared has no gradient left, so only the others are computed.
        active = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            part = e[active].requires_grad_()
            perturbed = within.apply(x[active], part)
            objective, shared = self.inner_objective(
                model(perturbed), backdoored(perturbed), y[active], clean[active], clean0[active]
            )
            (gradient,) = torch.autograd.grad(objective, part)
            e[active] = within.ascend(part.detach(), gradient)
            active = active[~shared]
            if not len(active):
                break
        return e

    def inner_objective(
        self, logits: Tensor, logits0: Tensor, y: Tensor, clean: Tensor, clean0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """lambda_3 L_adv + lambda_4 L_share, summed over images, and which images are shared.

        L_adv (equation 10) is the mean of the two models' cross-entropies, L_share (equation 11)
        the negative Jensen-Shannon divergence of their predictions. As in the authors' code, a
        model contributes to L_adv only while it predicts on x' what it predicts on x, and an image
        to L_share only until its example is shared: both models changed to the same class.

        Args:
            logits, logits0: of f and f0 on x', (B, K).
            y: labels, int64 (B,).
            clean, clean0: predictions of f and f0 on x, int64 (B,).

        Returns:
            A scalar to maximise, and bool (B,).
        """
        adversarial, adversarial0 = logits.argmax(1), logits0.argmax(1)
        fooled, fooled0 = adversarial != clean, adversarial0 != clean0
        shared = fooled & fooled0 & (adversarial == adversarial0)
        ce = F.cross_entropy(logits, y, reduction="none") * ~fooled
        ce0 = F.cross_entropy(logits0, y, reduction="none") * ~fooled0
        l_adv = (ce + ce0) / 2
        l_share = -jensen_shannon(logits.softmax(1), logits0.softmax(1)) * ~shared
        return (self.lambda_3 * l_adv + self.lambda_4 * l_share).sum(), shared


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of probabilities (B, K); (B,). Clamped at 1e-8."""
    p, q = p.clamp_min(1e-8), q.clamp_min(1e-8)
    log_m = ((p + q) / 2).log()
    return ((p * (p.log() - log_m)).sum(1) + (q * (q.log() - log_m)).sum(1)) / 2


def shared_risk(logits: Tensor, bad: Tensor, counted: Tensor) -> Tensor:
    """L_sar (equation 12): -log(1 - p_bad) where counted, summed and divided by the batch size.

    Two forms of the same term are averaged and clamped as in the authors' code, so that both are
    finite and their gradients end once p_bad < 0.001. logits: (B, K); bad: int64 (B,); counted:
    bool (B,). Returns a scalar.
    """
    p = logits.softmax(1)
    q = p.gather(1, bad[:, None])[:, 0]
    rest = p.scatter(1, bad[:, None], 0).sum(1)
    first = -(1e-6 + rest.clamp_max(0.999)).log()
    second = -(1 + 1e-6 - q.clamp_min(0.001)).log()
    return ((first + second) / 2 * counted).sum() / len(logits)


@torch.no_grad()
def predicted_classes(model: nn.Module, data: Images) -> Tensor:
    """Classes that the model predicts, int64 (N,)."""
    parts = torch.arange(len(data), device=data.y.device).split(1000)
    return torch.cat([model(data.floats(rows)).argmax(1) for rows in parts])
