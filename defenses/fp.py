"""FP: Fine-Pruning (Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv 1805.12185)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from benchmark.data import Images
from benchmark.errors import check_range
from benchmark.train import Recipe, fit, images
from defenses.base import Defense
from models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FP(Defense):
    """Prune the features that clean images activate least, then fine-tune.

    The inputs of the linear head are masked in increasing order of their mean over clean images,
    `step` at a time, until the accuracy has moved by `tolerance`; fine-tuning keeps the mask.

    tolerance: change of accuracy, relative to the accuracy before pruning, that ends the pruning,
    in (0, 1). step: share of the features pruned at a time, in (0, 1]. stop: "violating"
    fine-tunes the first mask beyond the tolerance and prunes n - 1 features in the step that
    should prune n, as the code behind the published cells does; "within" fine-tunes the last mask
    that keeps the tolerance and prunes n. recipe: as FT.

    Note: the published code watches the test accuracy; a defender has none, so here it is the
    accuracy on the clean subset. The original method prunes channels of the last convolution by
    their mean after ReLU and tolerates 4 points; features of PreAct-ResNet18 are signed, so the
    lowest mean is the most negative one.
    """

    name: ClassVar[str] = "FP"
    smoke: ClassVar[dict[str, Any]] = {"recipe": {"epochs": 2}}

    tolerance: float = 0.1
    step: float = 0.01
    stop: Literal["violating", "within"] = "violating"
    recipe: Recipe = Recipe(batch_size=256)

    def __post_init__(self) -> None:
        check_range(self, "tolerance", above=0, below=1)
        check_range(self, "step", above=0, most=1)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        activity = _features(model, data, self.recipe.augment).mean(0)
        mask = self.mask(model.head, activity, _features(model, data, False), data.y)
        kept = int(mask.sum())
        log.warning("pruned %d of %d features", len(mask) - kept, len(mask))
        # A parametrisation, not zeroed weights: momentum and weight decay cannot undo it.
        parametrize.register_parametrization(model.head, "weight", _Masked(mask))
        yield from fit(model, data, self.recipe)

    @torch.no_grad()
    def mask(self, head: nn.Linear, activity: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """Which features to keep, as a float mask (D,).

        activity: what ranks the features, (D,). features: inputs of the head, (N, D), on which the
        accuracy is measured. y: labels (N,).
        """
        size = len(activity)
        rank = activity.argsort(stable=True).argsort()
        late = 1 if self.stop == "violating" else 0
        counts = range(0, size, math.ceil(self.step * size))
        masks = [(rank >= n - late).to(features.dtype) for n in counts]
        hits = [F.linear(features, head.weight * m, head.bias).argmax(1) == y for m in masks]
        accuracy = torch.stack(hits).double().mean(1)
        moved = ((accuracy - accuracy[0]).abs() >= self.tolerance * accuracy[0]).tolist()
        first = moved.index(True) if True in moved else len(masks)
        last = first if self.stop == "violating" else first - 1
        return masks[min(max(last, 0), len(masks) - 1)]


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
    """Inputs of the head, (N, D), in evaluation mode."""
    model.eval()
    parts = torch.arange(len(data), device=data.y.device).split(500)
    batches = (images(data, rows, augmented) for rows in parts)
    return torch.cat([model.features(x, "penultimate")["penultimate"] for x in batches])
