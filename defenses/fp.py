"""FP: Fine-Pruning (Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv 1805.12185)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Recipe, batch, fit
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class FP(Defense):
    """Prune the features that clean images activate least, then fine-tune.

    The inputs of the classifier's first linear layer (of VGG19, which has three, 25,088; of other
    networks the inputs of the head) are masked in increasing order of their mean over clean images,
    `step` at a time, until the accuracy has moved by `tolerance`; fine-tuning keeps the mask.

    tolerance: change of accuracy, relative to the accuracy before pruning, that ends the pruning,
    in (0, 1). step: share of the features pruned at a time, in (0, 1]. recipe: as FT. as_published:
    fine-tune the first mask beyond the tolerance, and prune n - 1 features in the step that should
    prune n, as the code behind the published cells does; if false, fine-tune the last mask within
    the tolerance, and prune n.

    Note: the published code watches the test accuracy; a defender has none, so here it is the
    accuracy on the clean subset. The original method prunes channels of the last convolution by
    their mean after ReLU and tolerates 4 points; features of PreAct-ResNet18 are signed, so the
    lowest mean is the most negative one.
    """

    name: ClassVar[str] = "FP"
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}

    tolerance: float = 0.1
    step: float = 0.01
    recipe: Recipe = Recipe(batch_size=256)
    as_published: bool = True

    def __post_init__(self) -> None:
        check_range(self, "tolerance", above=0, below=1)
        check_range(self, "step", above=0, most=1)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        activity = _features(model, data, self.recipe.augment).mean(0)
        mask = self.mask(model, activity, _features(model, data, False), data.y)
        note("pruned %d of %d features", len(mask) - int(mask.sum()), len(mask))
        # A parametrisation, not zeroed weights: momentum and weight decay cannot undo it.
        parametrize.register_parametrization(model.first_linear, "weight", _Masked(mask))
        yield from fit(model, data, self.recipe)

    @torch.no_grad()
    def mask(self, model: Classifier, activity: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """1 for the features that stay and 0 for those that are pruned, float (D,).

        Args:
            model: its classifier maps features to logits; in evaluation mode.
            activity: what ranks the features, (D,).
            features: of the images on which the accuracy is measured, (N, D).
            y: their labels, int64 (N,).
        """
        weight = model.first_linear.weight
        name = next(n for n, p in model.classifier.named_parameters() if p is weight)
        rank = activity.argsort(stable=True).argsort()
        late = 1 if self.as_published else 0
        accuracy_before, last = None, torch.ones_like(activity)
        for n in range(0, len(activity), math.ceil(self.step * len(activity))):
            mask = (rank >= n - late).to(features.dtype)
            logits = functional_call(model.classifier, {name: weight * mask}, (features,))
            accuracy = float((logits.argmax(1) == y).double().mean())
            if accuracy_before is None:
                accuracy_before = accuracy
            if abs(accuracy - accuracy_before) >= self.tolerance * accuracy_before:
                return mask if self.as_published else last
            last = mask
        return last


class _Masked(nn.Module):
    """The weight of a linear layer, (K, D), with the columns of pruned inputs at zero."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@torch.no_grad()
def _features(model: Classifier, data: Images, augmented: bool) -> Tensor:
    """Inputs of the classifier, (N, D), in evaluation mode."""
    model.eval()
    parts = torch.arange(len(data), device=data.y.device).split(500)
    batches = (batch(data, rows, augmented) for rows in parts)
    return torch.cat([model.features(b.x, "flat")["flat"] for b in batches])
