"""GTSRB (Stallkamp et al., Man vs. computer: Benchmarking machine learning algorithms for traffic
sign recognition, Neural Networks 2012)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torchvision.datasets.folder import make_dataset
from torchvision.datasets.utils import download_and_extract_archive

from sau_bench.benchmark.data import Dataset, Images, Task
from sau_bench.benchmark.datasets.decoding import decoded

URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
ARCHIVES = {
    "GTSRB_Final_Training_Images.zip": "f33fd80ac59bff73c82d25ab499e03a3",
    "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
    "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}


@dataclass(frozen=True, kw_only=True)
class Gtsrb(Dataset):
    """39,209 training and 12,630 test images of 43 traffic signs, resized to 32 x 32.

    Below the data directory `gtsrb/GTSRB/Final_Training/Images`, or `gtsrb/GTSRB/Training` as
    torchvision calls it, and torchvision's layout of the test set.

    Note: torchvision downloads another training set, of 26,640 images. Pixels are not normalised
    and images not flipped, which would change the class of some signs (docs/protocol.md, Datasets).
    """

    name: ClassVar[str] = "GTSRB"
    num_classes: ClassVar[int] = 43
    train_size: ClassVar[int] = 39_209
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    mean: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)
    std: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)
    flips: ClassVar[bool] = False
    sizes: ClassVar[tuple[int, int]] = (39_209, 12_630)

    def __call__(self, root: Path) -> Task:
        base = root / "gtsrb"
        try:
            splits = _train(base / "GTSRB"), _test(base)
            for entries, size in zip(splits, self.sizes, strict=True):
                if len(entries) != size:
                    raise FileNotFoundError(f"{len(entries)} of {size} images")
            return Task(*(self._images(entries, root) for entries in splits))
        except OSError as error:
            raise self.missing(root, str(error)) from error

    def fetch(self, root: Path) -> None:
        for name, md5 in ARCHIVES.items():
            download_and_extract_archive(
                URL + name, str(root / "gtsrb"), md5=md5, remove_finished=True
            )

    def _images(self, entries: list[tuple[str, int]], root: Path) -> Images:
        x = decoded([Path(file) for file, _ in entries], self.shape[1], root)
        return Images(x, torch.tensor([label for _, label in entries]), self.flips)


def _train(base: Path) -> list[tuple[str, int]]:
    """Files and labels in the order of classes, tracks and frames."""
    full = base / "Final_Training" / "Images"
    entries: list[tuple[str, int]] = make_dataset(
        str(full if full.is_dir() else base / "Training"), extensions=(".ppm",)
    )
    return entries


def _test(base: Path) -> list[tuple[str, int]]:
    folder = base / "GTSRB" / "Final_Test" / "Images"
    with (base / "GT-final_test.csv").open() as table:
        lines = csv.DictReader(table, delimiter=";")
        return [(str(folder / line["Filename"]), int(line["ClassId"])) for line in lines]
