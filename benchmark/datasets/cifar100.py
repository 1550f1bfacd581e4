"""CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torchvision.datasets import CIFAR100

from sau_bench.benchmark.data import Dataset, Task
from sau_bench.benchmark.datasets.cifar import read_cifar


@dataclass(frozen=True, kw_only=True)
class Cifar100(Dataset):
    """50,000 training and 10,000 test images in torchvision's layout below the data directory.

    The labels are the 100 fine ones.
    """

    name: ClassVar[str] = "CIFAR-100"
    num_classes: ClassVar[int] = 100
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)
    # As in the field's code, not because a mirrored image would be of another class.
    flips: ClassVar[bool] = False

    def __call__(self, root: Path) -> Task:
        try:
            return read_cifar(CIFAR100, root, self.flips)
        except RuntimeError as error:
            raise self.missing(root) from error

    def fetch(self, root: Path) -> None:
        CIFAR100(root, download=True)
