"""CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torchvision.datasets import CIFAR10

from sau_bench.benchmark.data import Dataset, Task
from sau_bench.benchmark.datasets.cifar import read_cifar


@dataclass(frozen=True, kw_only=True)
class Cifar10(Dataset):
    """50,000 training and 10,000 test images in torchvision's layout below the data directory."""

    name: ClassVar[str] = "CIFAR-10"
    num_classes: ClassVar[int] = 10
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    # Not the (.2023, .1994, .2010) of some repositories: docs/protocol.md, Datasets.
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.247, 0.243, 0.261)
    flips: ClassVar[bool] = True

    def __call__(self, root: Path) -> Task:
        try:
            return read_cifar(CIFAR10, root, self.flips)
        except RuntimeError as error:
            raise self.missing(root) from error

    def fetch(self, root: Path) -> None:
        CIFAR10(root, download=True)
