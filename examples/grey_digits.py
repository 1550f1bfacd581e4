"""Grey digits: those of scikit-learn, read from a file; images of one channel."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits

from sau_bench.benchmark.data import Dataset, Images, Task


@dataclass(frozen=True, kw_only=True)
class GreyDigits(Dataset):
    """1,797 images of 16 x 16; every fifth one is a test image. In `grey_digits.npz`."""

    name: ClassVar[str] = "Grey digits"
    num_classes: ClassVar[int] = 10
    train_size: ClassVar[int] = 1_437
    shape: ClassVar[tuple[int, int, int]] = (1, 16, 16)
    mean: ClassVar[tuple[float, ...]] = (0.305,)
    std: ClassVar[tuple[float, ...]] = (0.376,)
    flips: ClassVar[bool] = False

    def __call__(self, root: Path) -> Task:
        try:
            with np.load(root / "grey_digits.npz") as file:
                x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
        except (OSError, ValueError) as error:
            raise self.missing(root, str(error)) from None
        test = torch.arange(len(y)) % 5 == 0
        return Task(Images(x[~test], y[~test]), Images(x[test], y[test]))

    def fetch(self, root: Path) -> None:
        digits = load_digits()
        x = (digits.images * 255 / 16).round().astype(np.uint8)
        x = x.repeat(2, axis=1).repeat(2, axis=2)[:, None]
        root.mkdir(parents=True, exist_ok=True)
        np.savez(root / "grey_digits.npz", x=x, y=digits.target.astype(np.int64))
