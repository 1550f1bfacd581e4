"""SIG: a sinusoidal signal, labels untouched (Barni, Kallas & Tondi 2019, arXiv 1902.11237)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class SIG(DataPoisoning):
    """v(i, j) = delta sin(2 pi j f / m) is added to row i, column j of m columns: vertical stripes.

    Only images of the target class are stamped, and `ratio` is a share of the whole training set:
    at 0.1 every CIFAR-10 image of the class is poisoned, so that the accuracy on it drops.

    delta: amplitude in units of 1/255, in (0, 255]. f: periods over the image's width,
    above 0 and at most 1,000.

    Note: where the sine should vanish, float64 arithmetic gives -3e-14, which the published
    images truncate to one level less in column m / 2; here that column stays as it is.
    """

    name: ClassVar[str] = "SIG"
    clean_label: ClassVar[bool] = True

    delta: float = 40.0
    f: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "delta", above=0, most=255)
        check_range(self, "f", above=0, most=1000)

    def trigger(self, x: Tensor) -> Tensor:
        return (x + self.signal(x.shape[-1]).to(x.device) / 255).clamp_(0, 1)

    def signal(self, width: int) -> Tensor:
        """The sinusoid over the columns of an image, float (width,), in units of 1/255."""
        columns = torch.arange(width, dtype=torch.float64)
        # In float64: float32 would move a phase of many periods by more than a rounding error.
        return (self.delta * (2 * math.pi * columns * self.f / width).sin()).float()
