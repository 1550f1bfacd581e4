"""FT: fine-tuning on clean data, the baseline (Liu et al. 2018, arXiv 1805.12185)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import Recipe, fit
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class FT(Defense):
    """All parameters train on the clean subset with augmentation and batch norm in training mode.

    recipe: SGD at 0.01 with cosine annealing, batches of 256, 100 epochs (Tiny ImageNet: 200
    epochs, plateau).
    """

    name: ClassVar[str] = "FT"
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}

    recipe: Recipe = Recipe(batch_size=256)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        yield from fit(model, data, self.recipe)
