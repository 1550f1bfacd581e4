"""Datasets as tensors: uint8 images and int64 labels that live on the device.

No DataLoader, no worker processes: a batch is an index, augmentation is batched tensor code.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.plugin import Plugin, config_name
from sau_bench.benchmark.shipped import command


@dataclass(frozen=True)
class Images:
    """Labelled images.

    x: uint8 (N, C, H, W). y: int64 (N,). flips: whether a mirrored image is of the same class, that
    is, whether augmentation may flip.
    """

    x: Tensor
    y: Tensor
    flips: bool = False

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Images:
        return replace(self, x=self.x[rows], y=self.y[rows])

    def to(self, device: torch.device | str) -> Images:
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def floats(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Images as float32 (B, C, H, W) in [0, 1], channels last in memory."""
        return self.x[rows].to(memory_format=torch.channels_last).float().div_(255)


@dataclass(frozen=True)
class Task:
    """The two splits of a dataset."""

    train: Images
    test: Images

    def to(self, device: torch.device | str) -> Task:
        return Task(self.train.to(device), self.test.to(device))


@dataclass(frozen=True, kw_only=True)
class Dataset(Plugin):
    """A dataset; its constants are known without reading a file."""

    num_classes: ClassVar[int]
    train_size: ClassVar[int] = 50_000
    """Training images, for estimates of time; rows count what is there."""
    shape: ClassVar[tuple[int, int, int]]
    """(C, H, W) of an image."""
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    """Per channel, of pixels in [0, 1]; a layer of the model normalises with them."""
    flips: ClassVar[bool]

    @abstractmethod
    def __call__(self, root: Path) -> Task:
        """Both splits on the CPU, read below `root`.

        Raises:
            InputError: the files are missing or damaged; names the command that makes them.
        """

    def fetch(self, root: Path) -> None:
        """Make the files below `root`, downloading them; nothing to do for embedded data."""
        raise InputError(f"{self.name} is embedded, there is nothing to fetch")

    def missing(self, root: Path, why: str = "") -> InputError:
        """What to raise when files below `root` are missing or damaged."""
        reason = f" ({why})" if why else ""
        return InputError(
            f"{self.name} is missing or damaged in {str(root)!r}{reason}; "
            f"make it with: {command()} fetch {config_name(type(self))} --data {root}"
        )


@contextmanager
def replaced(data: Images, rows: Tensor, others: Images) -> Iterator[Images]:
    """Inside the block some rows are other images, in place, since a copy takes as much memory as a
    dataset. However the block ends, they are as before.
    """
    before = data[rows]
    try:
        data.x[rows], data.y[rows] = others.x, others.y
        yield data
    finally:
        data.x[rows], data.y[rows] = before.x, before.y


def to_uint8(x: Tensor) -> Tensor:
    """[0, 1] floats to 8 bits by truncation, as poisoned images are stored (docs/protocol.md,
    "metrics").

    The slack absorbs float32 rounding, so that k/255 comes back as k and exact fractions such as
    (4x + K)/5 truncate as integers do.
    """
    return (x * 255).add_(1e-3).clamp_(0, 255).to(torch.uint8)


def draw_poisoned(
    labels: Tensor,
    count: int,
    seed: int,
    only: int | None = None,
    taken: Tensor | None = None,
) -> Tensor:
    """Rows to poison, int64 (count,), drawn uniformly without replacement.

    The draw is that of BackdoorBench, by the legacy numpy generator right after seeding: seed 0 on
    CIFAR-10 starts 11841, 19602, 45519 (docs/protocol.md, "labels and poisoned rows").

    Args:
        labels: of the training set, int64 (N,).
        count: rows to draw; all possible ones if there are fewer.
        seed: of the draw.
        only: the class to draw from; None draws from all.
        taken: rows that must not be drawn.
    """
    free = np.ones(len(labels), bool) if only is None else labels.cpu().numpy() == only
    if taken is not None:
        free[taken.cpu().numpy()] = False
    pool = np.flatnonzero(free)
    drawn = np.random.RandomState(seed).choice(pool, min(count, len(pool)), replace=False)
    return torch.from_numpy(drawn.astype(np.int64)).to(labels.device)


def draw_clean(size: int, ratio: float, seed: int) -> Tensor:
    """Rows of the defender's clean subset, int64 (floor(ratio * size),), not stratified.

    The draw depends on the dataset's size and the seed alone: every defense of a cell gets the
    same images (docs/protocol.md, "defender's data").
    """
    return torch.tensor(random.Random(seed).sample(range(size), int(ratio * size)))


def augment(x: Tensor, *, pad: int, flips: bool) -> Tensor:
    """Random crop with zero padding and, where allowed, random horizontal flip, per image.

    Args:
        x: uint8 or float (B, C, H, W).
        pad: zero pixels added on each side before an H x W window is cut uniformly.
        flips: whether each image is mirrored with probability 1/2.

    Returns:
        (B, C, H, W), same type, channels last in memory; distributed as torchvision's RandomCrop
        and RandomHorizontalFlip, applied to one image at a time.
    """
    batch, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1).contiguous()
    top, left = torch.randint(2 * pad + 1, (2, batch, 1), device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(batch, width)
    if flips:
        mirrored = torch.rand(batch, 1, device=x.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = columns + left
    # One flat index of whole pixels: a gather of C-byte runs, and the result is channels last.
    image = torch.arange(batch, device=x.device).view(-1, 1, 1) * (height + 2 * pad)
    index = (image + rows[:, :, None]) * (width + 2 * pad) + columns[:, None, :]
    window = padded.view(-1, channels)[index.view(-1)]
    return window.view(batch, height, width, channels).permute(0, 3, 1, 2)
