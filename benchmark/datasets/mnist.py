"""MNIST (LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition,
Proceedings of the IEEE 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from sau_bench.benchmark.data import Dataset, Images, Task


@dataclass(frozen=True, kw_only=True)
class Mnist(Dataset):
    """60,000 training and 10,000 test images of 28 x 28, grey: they have one channel.

    Below the data directory `MNIST/raw`, as torchvision unpacks it.
    """

    name: ClassVar[str] = "MNIST"
    num_classes: ClassVar[int] = 10
    train_size: ClassVar[int] = 60_000
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    # As in the field's code; the pixels' mean and deviation are 0.131 and 0.308.
    mean: ClassVar[tuple[float, ...]] = (0.5,)
    std: ClassVar[tuple[float, ...]] = (0.5,)
    flips: ClassVar[bool] = False
    # Of the unpacked files, which torchvision reads without a check of their content.
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def __call__(self, root: Path) -> Task:
        if damaged := self._damaged(root):
            raise self.missing(root, ", ".join(file.name for file in damaged))
        return Task(self._split(root, "train"), self._split(root, "t10k"))

    def fetch(self, root: Path) -> None:
        for file in self._damaged(root):  # torchvision downloads only what is not there
            file.unlink(missing_ok=True)
        MNIST(root, download=True)

    def _damaged(self, root: Path) -> list[Path]:
        """The files that are missing or are not the published ones."""
        files = {root / "MNIST" / "raw" / name: md5 for name, md5 in self.md5.items()}
        return [file for file, md5 in files.items() if not check_integrity(file, md5)]

    def _split(self, root: Path, name: str) -> Images:
        stem = str(root / "MNIST" / "raw" / name)
        x = read_image_file(f"{stem}-images-idx3-ubyte")[:, None].contiguous()
        return Images(x, read_label_file(f"{stem}-labels-idx1-ubyte"), self.flips)
