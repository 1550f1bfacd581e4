"""BadNets: a small patch in the corner (Gu, Dolan-Gavitt & Garg 2017, arXiv 1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class BadNets(DataPoisoning):
    """A 3 x 3 patch in the bottom right corner of a 32 x 32 image overwrites all channels.

    pattern: "square" is white; "grid" alternates white and almost black. value: brightness of the
    square, in (0, 1] (table 12 of the SAU paper varies it). as_published: at sizes other than 32,
    resize the 32 x 32 pattern image bilinearly, as for the published victims, which gives 64 x 64
    images a 7 x 7 patch with a soft rim; if false, scale the square to whole pixels.
    """

    name: ClassVar[str] = "BadNets"

    pattern: Literal["square", "grid"] = "square"
    value: float = 1.0
    as_published: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "value", above=0, most=1)

    def trigger(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        patch = _patch(self.pattern, self.as_published, height, width).to(x.device)
        # The pattern image's zeros mean "keep", everything else overwrites.
        return torch.where(patch > 0, patch * self.value, x)


@lru_cache
def _patch(pattern: str, soft: bool, height: int, width: int) -> Tensor:
    """The pattern image, float (1, 1, height, width) in [0, 1], zero where images stay."""
    image = np.zeros((32, 32), np.uint8)
    image[-3:, -3:] = 255
    if pattern == "grid":
        image[-3:, -3:] = np.where(np.indices((3, 3)).sum(0) % 2, 1, 255)
    filter_ = Image.Resampling.BILINEAR if soft else Image.Resampling.NEAREST
    resized = np.array(Image.fromarray(image).resize((width, height), filter_))
    return torch.from_numpy(resized).float().div(255)[None, None]
