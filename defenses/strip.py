"""STRIP: inputs whose prediction survives strong perturbation are rejected (Gao et al., ACSAC 2019,
arXiv 1902.06531)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import IMAGES, check_range
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Defense, NotApplicable, with_rejection
from sau_bench.models.classifier import Classifier

BATCH = 500
"""Clean images in one pass while the threshold is measured."""


@dataclass(frozen=True, kw_only=True)
class STRIP(Defense):
    """Superimpose clean images on each input and reject it if the predictions hardly change.

    A trigger that works on every image works through a superimposed one as well, so that the
    predictions of a triggered input agree and their entropy is low. With clean images o_1 to o_N
    and p the softmax output, x is rejected when

        H(x) = -1/N sum_n sum_c p_c(w (x + o_n)) log2 p_c(w (x + o_n)) < t,

    t being the quantile `false_rejection` of a normal distribution with the mean and the deviation
    of H on clean images. The model itself stays as it is; a rejected image counts as wrong
    (`Defense.rejects`).

    overlays: N, 1 to 2^31. samples: clean images that t is measured on, 2 to 2^31. false_rejection:
    share of clean inputs that t lets be rejected, above 0 and below 1. weight: w, of both images in
    the sum, above 0 and at most 1; 1 is a plain sum as in the authors' code, 0.5 the mean.

    Note: the overlays are drawn once, not for each input, so that an image gets the same answer
    each time; t is measured on other images than those, half of them at least where there are few.
    The sum is not cut off at 1. One input costs N passes.
    """

    name: ClassVar[str] = "STRIP"
    rejects: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"overlays": 4, "samples": 32}

    overlays: int = 100
    samples: int = 2000
    false_rejection: float = 0.01
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "overlays", least=1, most=IMAGES)
        check_range(self, "samples", least=2, most=IMAGES)
        check_range(self, "false_rejection", above=0, below=1)
        check_range(self, "weight", above=0, most=1)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        if len(data) < 4:
            raise NotApplicable(f"needs at least 4 clean images, there are {len(data)}")
        order = torch.randperm(len(data), device=data.y.device)
        count = min(self.overlays, len(data) // 2)
        judged = order[count:][: self.samples]
        filtered = Filtered(model, data.floats(order[:count]), self.weight).eval()
        parts = judged.split(BATCH)
        entropies = torch.cat([filtered.entropy(data.floats(part)) for part in parts])
        quantile = torch.special.ndtri(entropies.new_tensor(self.false_rejection))
        filtered.threshold = float(entropies.mean() + quantile * entropies.std())
        note(
            "threshold %.3g bits from %d clean images, %d overlays",
            filtered.threshold, len(judged), count,
        )  # fmt: skip
        yield filtered


class Filtered(nn.Module):
    """A classifier with one class more, for rejected images: those of an entropy < threshold.

    overlays: float (N, C, H, W) in [0, 1]. threshold: in bits; below 0 nothing is rejected.
    """

    overlays: Tensor

    def __init__(self, model: Classifier, overlays: Tensor, weight: float) -> None:
        super().__init__()
        self.model, self.weight, self.threshold = model, weight, -1.0
        self.register_buffer("overlays", overlays)

    @torch.no_grad()
    def entropy(self, x: Tensor) -> Tensor:
        """H of images, float (B, C, H, W) -> (B,), in bits."""
        total = x.new_zeros(len(x))
        for overlay in self.overlays:
            p = self.model(self.weight * (x + overlay)).softmax(1)
            total -= torch.xlogy(p, p).sum(1)
        return total / (len(self.overlays) * math.log(2))

    def forward(self, x: Tensor) -> Tensor:
        return with_rejection(self.model(x), self.entropy(x) < self.threshold)
