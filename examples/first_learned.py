"""Training anew without the images that are learned first; a defense that trains its own model.

Triggers are learned before classes are (Li et al., Anti-Backdoor Learning, NeurIPS 2021, arXiv
2110.11571), so that the images with the lowest loss after a few epochs are largely poisoned ones.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Recipe, fit, train_model
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class FirstLearned(Defense):
    """Train for `epochs`, drop the share `dropped` with the lowest loss, start again on the rest.

    epochs: of the model that judges the images, at least 1. dropped: in [0, 1). recipe: of the
    final model, which is scored after each epoch.
    """

    name: ClassVar[str] = "First learned"
    uses: ClassVar = "train"
    starts: ClassVar = "untrained"
    smoke: ClassVar[dict[str, Any]] = {"epochs": 1, "recipe": {"epochs": 2}}

    epochs: int = 5
    dropped: float = 0.2
    recipe: Recipe = Recipe()

    def __post_init__(self) -> None:
        check_range(self, "epochs", least=1)
        check_range(self, "dropped", least=0, below=1)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        judge = copy.deepcopy(model)
        few = Recipe(epochs=self.epochs, schedule="constant", batch_size=self.recipe.batch_size)
        train_model(judge, data, few)
        kept = losses(judge, data).argsort()[round(self.dropped * len(data)) :]
        note("trained on %d of %d images", len(kept), len(data))
        yield from fit(model, data[kept], self.recipe)


@torch.no_grad()
def losses(model: Classifier, data: Images) -> torch.Tensor:
    """The cross-entropy of each image, (N,)."""
    model.eval()
    rows = torch.arange(len(data), device=data.y.device).split(500)
    parts = [F.cross_entropy(model(data.floats(r)), data.y[r], reduction="none") for r in rows]
    return torch.cat(parts)
