"""AT: adversarial training on clean data (Madry et al., ICLR 2018, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Batch, Recipe, fit
from sau_bench.defenses.base import Defense
from sau_bench.defenses.perturbation import UNLEARNING, NormBall, Start, adversarial
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class AT(Defense):
    """Fine-tune on adversarial examples of the current model: the baseline of SAU.

    min over theta of E[CE(f(x + e), y)], e the maximiser of the same loss in an L-infinity ball
    (SAU paper, arXiv 2307.10562, table 6, C + D). All settings are those of SAU.

    eps: bound of the perturbation, in pixels of [0, 1], above 0 and at most 10. step: sign step,
    the same. steps: of the inner maximisation, 1 to 10,000. start: where it begins: at "max" +eps
    in every pixel, at "min" -eps, at "zero" no change, at "random" a uniform draw from [0, 1],
    projected. clean_weight: weight, 0 or more, of CE(f(x), y) beside the adversarial term. recipe:
    Adam (amsgrad) at 1e-4, constant; batch norm frozen and no augmentation, both part of the
    method; 100 epochs (Tiny ImageNet: 20).

    Note: x + e is not clipped to [0, 1], as in SAU. The SAU paper does not say whether its AT has
    the clean term; without it (weight 0) the method is that of Madry et al.
    """

    name: ClassVar[str] = "AT"
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}

    eps: float = 0.2
    step: float = 0.2
    steps: int = 5
    start: Start = "max"
    clean_weight: float = 0.0
    recipe: Recipe = UNLEARNING

    def __post_init__(self) -> None:
        check_range(self, "eps", "step", above=0, most=10)
        check_range(self, "steps", least=1, most=10_000)
        check_range(self, "clean_weight", least=0)
        if self.recipe.augment or self.recipe.batch_norm != "frozen":
            raise ValueError("recipe: AT needs augment: false and batch_norm: frozen")

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        ball = NormBall(norm="linf", bound=self.eps, step=self.step, start=self.start)

        def loss(model: Classifier, batch: Batch) -> Tensor:
            x, y, _ = batch
            e = adversarial(model, ball, x, y, self.steps)
            value = F.cross_entropy(model(ball.apply(x, e)), y)
            if self.clean_weight:
                value = value + self.clean_weight * F.cross_entropy(model(x), y)
            return value

        yield from fit(model, data, self.recipe, loss=loss)
