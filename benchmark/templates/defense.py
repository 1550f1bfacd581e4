"""My plugin: what it does in a few words (authors, venue, year, arXiv number)."""

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
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class MyPlugin(Defense):
    """Fine-tunes on clean images, with the weights drawn towards zero. <- say what yours does

    strength: weight of the penalty, 0 to 10. recipe: how to train.
    """

    name: ClassVar[str] = "My plugin"  # what tables print
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}  # fast, for tests

    # Hyper-parameters, with types and defaults: a config sets them, the docstring explains them.
    strength: float = 1e-4
    recipe: Recipe = Recipe(epochs=10, batch_size=128)

    def __post_init__(self) -> None:
        # Bad values end in one line, before a grid starts.
        check_range(self, "strength", least=0, most=10)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        # model: a victim, which may be changed in place. data: clean labelled images, uint8 and
        # int64; they must stay as they are. The harness scores each model that is yielded.

        def loss(model: Classifier, batch: Batch) -> Tensor:
            # batch.x: float (B, C, H, W) in [0, 1], batch.y: int64 (B,). The model normalises.
            penalty = sum(p.square().sum() for p in model.parameters())
            return F.cross_entropy(model(batch.x), batch.y) + self.strength * penalty

        yield from fit(model, data, self.recipe, loss=loss)  # the model after each epoch
