"""Handwritten digits bundled with scikit-learn (Alpaydin & Kaynak, UCI repository, 1998)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from sklearn.datasets import load_digits

from sau_bench.benchmark.data import Dataset, Images, Task


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 real 8 x 8 images, upsampled to 3 x 32 x 32; every fifth image is a test image.

    Embedded: no file is read and nothing is downloaded.
    """

    name: ClassVar[str] = "Digits"
    num_classes: ClassVar[int] = 10
    train_size: ClassVar[int] = 1_437
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    mean: ClassVar[tuple[float, ...]] = (0.305, 0.305, 0.305)
    std: ClassVar[tuple[float, ...]] = (0.340, 0.340, 0.340)
    flips: ClassVar[bool] = False

    def __call__(self, root: Path) -> Task:
        bunch = load_digits()
        small = torch.from_numpy(bunch.images).float().div(16)[:, None]
        large = torch.nn.functional.interpolate(small, size=32, mode="bilinear")
        x = (large.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        y = torch.from_numpy(bunch.target).long()
        test = torch.arange(len(y)) % 5 == 0
        return Task(Images(x[~test], y[~test]), Images(x[test], y[test]))
