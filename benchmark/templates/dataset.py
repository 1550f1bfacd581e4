"""My plugin (authors, where the images come from, year)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from sau_bench.benchmark.data import Dataset, Images, Task


@dataclass(frozen=True, kw_only=True)
class MyPlugin(Dataset):
    """Grey images of 28 x 28 that are drawn, each class another one. <- say what yours are"""

    name: ClassVar[str] = "My plugin"  # what tables print
    num_classes: ClassVar[int] = 4
    train_size: ClassVar[int] = 400
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)  # channels, height, width
    # Of each channel of the training images, as shares of the brightest: the contract compares.
    mean: ClassVar[tuple[float, ...]] = (0.5,)
    std: ClassVar[tuple[float, ...]] = (0.289,)
    # Whether a mirrored image is of the same class: cats yes, digits no.
    flips: ClassVar[bool] = False

    def __call__(self, root: Path) -> Task:
        # Yours reads files below `root`, the folder of --data, for instance:
        #     if not (root / "my_images.npz").is_file():
        #         raise self.missing(root)  # names the command that makes them: `fetch`
        #     arrays = numpy.load(root / "my_images.npz")
        #     train = Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]))
        # A class with files also has `def fetch(self, root: Path) -> None`, which makes them.
        generator = torch.Generator().manual_seed(0)  # its own: every run gets the same images
        pictures = torch.rand(self.num_classes, *self.shape, generator=generator)
        return Task(self._split(pictures, 100, generator), self._split(pictures, 25, generator))

    def _split(self, pictures: torch.Tensor, count: int, generator: torch.Generator) -> Images:
        """count: images of each class."""
        y = torch.arange(self.num_classes).repeat(count)  # int64 (N,)
        noise = torch.rand(len(y), *self.shape, generator=generator)
        keeps = torch.rand(len(y), 1, *self.shape[1:], generator=generator) < 0.5
        x = torch.where(keeps, pictures[y], noise)
        return Images((x * 256).to(torch.uint8), y, self.flips)  # uint8 (N, C, H, W)
