"""Images that are drawn: of any shape and number of classes, without a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from sau_bench.benchmark.data import Dataset, Images, Task
from sau_bench.benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Each class has a random picture; each of its images shows half of the pixels of that.

    The other pixels are noise. All are drawn from a fixed seed and uniform in [0, 1]. A network
    learns the classes in a few epochs; `run --smoke` puts such images in place of real ones.

    num_classes: 2 to 10,000. shape: (C, H, W) of an image, 1 to 4,096 each. per_class,
    test_per_class: images of each class in the two splits, 1 to 100,000. flips: whether
    augmentation may mirror images.
    """

    name: ClassVar[str] = "Synthetic"
    smoke: ClassVar[dict[str, Any]] = {"per_class": 20, "test_per_class": 5}
    num_classes: int = 10  # type: ignore[misc] # a constant of each variant, not of the class
    shape: tuple[int, int, int] = (3, 32, 32)  # type: ignore[misc] # the same
    flips: bool = False  # type: ignore[misc] # the same
    per_class: int = 100
    test_per_class: int = 20

    def __post_init__(self) -> None:
        check_range(self, "num_classes", least=2, most=10_000)
        check_range(self, "shape", least=1, most=4096)
        check_range(self, "per_class", "test_per_class", least=1, most=100_000)

    @property
    def train_size(self) -> int:  # type: ignore[override] # a constant of each variant
        return self.num_classes * self.per_class

    @property
    def mean(self) -> tuple[float, ...]:  # type: ignore[override] # a constant of each variant
        return (0.5,) * self.shape[0]

    @property
    def std(self) -> tuple[float, ...]:  # type: ignore[override] # a constant of each variant
        return (0.289,) * self.shape[0]

    def __call__(self, root: Path) -> Task:
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(self.num_classes, *self.shape, generator=generator)
        splits = (
            self._split(pictures, n, generator) for n in (self.per_class, self.test_per_class)
        )
        return Task(*splits)

    def _split(self, pictures: torch.Tensor, count: int, generator: torch.Generator) -> Images:
        y = torch.arange(self.num_classes).repeat(count)
        noise = torch.rand(len(y), *self.shape, generator=generator)
        shown = torch.rand(len(y), 1, *self.shape[1:], generator=generator) < 0.5
        x = torch.where(shown, pictures[y], noise)
        return Images((x * 256).to(torch.uint8), y, self.flips)
