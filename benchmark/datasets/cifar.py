"""Shared by CIFAR-10 and CIFAR-100, whose files torchvision reads alike."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from sau_bench.benchmark.data import Images, Task


def read_cifar(files: type[CIFAR10], root: Path, flips: bool) -> Task:
    """Both splits in torchvision's layout below `root`.

    Raises:
        RuntimeError: the files are missing or damaged.
    """

    def split(train: bool) -> Images:
        read = files(root, train=train)
        x = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        return Images(x, torch.tensor(read.targets), flips)

    return Task(split(True), split(False))
