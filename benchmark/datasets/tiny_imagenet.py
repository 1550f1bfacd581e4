"""Tiny ImageNet (Le & Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision.datasets.utils import download_and_extract_archive

from sau_bench.benchmark.data import Dataset, Images, Task
from sau_bench.benchmark.datasets.decoding import decoded
from sau_bench.benchmark.errors import check_range

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(Dataset):
    """200 classes, 500 training images of 64 x 64 each; the 10,000 validation images are the test.

    The published archive, unpacked below the data directory as `tiny-imagenet-200`. Classes are
    numbered in the order of their WordNet ids.

    per_class: training images of each class, 1 to 500: its first ones, where fewer.
    """

    name: ClassVar[str] = "Tiny ImageNet"
    argument: ClassVar[str] = "per_class"
    smoke: ClassVar[dict[str, Any]] = {"per_class": 10}
    num_classes: ClassVar[int] = 200
    shape: ClassVar[tuple[int, int, int]] = (3, 64, 64)
    mean: ClassVar[tuple[float, ...]] = (0.4802, 0.4481, 0.3975)
    std: ClassVar[tuple[float, ...]] = (0.2302, 0.2265, 0.2262)
    # As in the field's code, not because a mirrored image would be of another class.
    flips: ClassVar[bool] = False
    test_size: ClassVar[int] = 10_000

    per_class: int = 500

    def __post_init__(self) -> None:
        check_range(self, "per_class", least=1, most=500)

    @property
    def train_size(self) -> int:  # type: ignore[override] # a constant of each variant
        return self.num_classes * self.per_class

    @property
    def label(self) -> str:
        return self.name if self.per_class == 500 else f"{self.name} ({self.per_class} per class)"

    def __call__(self, root: Path) -> Task:
        base = root / "tiny-imagenet-200"
        try:
            wnids = sorted((base / "wnids.txt").read_text().split())
            train = [file for wnid in wnids for file in self._files(base / "train" / wnid)]
            lines = (base / "val" / "val_annotations.txt").read_text().splitlines()
            test = [line.split("\t")[:2] for line in lines]
            if len(test) != self.test_size:
                raise FileNotFoundError(f"{len(test)} of {self.test_size} validation images")
            numbers = {wnid: number for number, wnid in enumerate(wnids)}
            return Task(
                self._images(
                    train, torch.arange(len(wnids)).repeat_interleave(self.per_class), root
                ),
                self._images(
                    [base / "val" / "images" / name for name, _ in test],
                    torch.tensor([numbers[wnid] for _, wnid in test]),
                    root,
                ),
            )
        except OSError as error:
            raise self.missing(root, str(error)) from error

    def fetch(self, root: Path) -> None:
        download_and_extract_archive(URL, str(root), md5=MD5, remove_finished=True)

    def _files(self, folder: Path) -> list[Path]:
        """The class's first training images, by name as torchvision's ImageFolder sorts them."""
        files = sorted(folder.glob("images/*.JPEG"))
        if len(files) < self.per_class:
            raise FileNotFoundError(f"{len(files)} of {self.per_class} images in {folder.name}")
        return files[: self.per_class]

    def _images(self, files: list[Path], y: torch.Tensor, root: Path) -> Images:
        return Images(decoded(files, self.shape[1], root), y, self.flips)
