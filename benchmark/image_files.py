"""Image files of poisoned data: what is in a folder, its digest, and its pixels."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sau_bench.benchmark.errors import InputError, listed, shown

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageFiles:
    """Images of some rows of a dataset's split, as files.

    rows: positions in the split, ascending, int64 (N,). classes: what the folder says of each
    image, int64 (N,). paths: of the files.
    """

    rows: Tensor
    classes: Tensor
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, shape: tuple[int, ...]) -> Tensor:
        """The images, uint8 (N, C, H, W).

        shape: (C, H, W) of the dataset's images.

        Raises:
            InputError: names a file that is missing, is no image or has another size.
        """
        x = np.empty((len(self), *shape), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, image in enumerate(pool.map(lambda file: _read(file, shape), self.paths)):
                x[row] = image
        return torch.from_numpy(x)


def sorted_files(found: Sequence[tuple[int, int, Path]]) -> ImageFiles:
    """From (row, class, file) of each image.

    Raises:
        InputError: two files are of one row.
    """
    found = sorted(found)
    for (row, _, first), (other, _, second) in pairwise(found):
        if row == other:
            raise InputError(f"{first} and {second} are both of image {row}; accepted: one file")
    rows, classes = (torch.tensor([line[i] for line in found], dtype=torch.int64) for i in (0, 1))
    return ImageFiles(rows, classes, tuple(path for _, _, path in found))


def class_folders(folder: Path, num_classes: int) -> ImageFiles:
    """The images of `folder/CLASS/FILE`; the last number in a file's name is its row.

    A class is a number, or, as in torchvision's ImageFolder, the position of the folder's name
    among all, of which there are as many as classes then.

    Raises:
        InputError: there is no such folder or no image, or names the folder or file that does not
            fit.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; accepted: one with a folder for each class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    numbers = {name: int(name) for name in names if name.isdecimal()}
    if len(numbers) < len(names):
        if len(names) != num_classes:
            raise InputError(
                f"{folder} has {len(names)} folders, {shown(listed(names))}; accepted: numbers of "
                f"classes, or names of all {num_classes} classes"
            )
        numbers = {name: number for number, name in enumerate(names)}
    found = []
    for name, number in numbers.items():
        if number >= num_classes:
            raise InputError(f"{folder / name}: accepted: classes 0 to {num_classes - 1}")
        for file in (folder / name).iterdir():
            if file.suffix.lower() in SUFFIXES:
                found.append((_row(file), number, file))
    if not found:
        raise InputError(f"{folder} has no image in {folder.name}/CLASS/ROW{SUFFIXES[0]}")
    return sorted_files(found)


def content_digest(folder: Path, *parts: str) -> str:
    """The sha256 of names and contents of files and folders below a folder; "" if none is there.

    What has neither another size nor another time than before in this process is not read again.
    """
    base, state = str(folder.resolve()), []
    # Strings: there may be tens of thousands of files, and every job of a grid asks.
    for file in (file for part in parts for file in _below(os.path.join(base, part))):
        stat = os.stat(file)
        state.append((os.path.normpath(file)[len(base) + 1 :], stat.st_size, stat.st_mtime_ns))
    return _digest(base, tuple(sorted(state))) if state else ""


@lru_cache(maxsize=64)
def _digest(folder: str, state: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, _, _ in state:
        content = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
        whole.update(f"{content} {Path(name).as_posix()}\n".encode())
    return whole.hexdigest()


def _below(path: str) -> Iterator[str]:
    """The file itself, or all files below a folder."""
    if os.path.isfile(path):
        yield path
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


def _row(file: Path) -> int:
    numbers = re.findall(r"\d+", file.stem)
    if not numbers or len(numbers[-1]) > 18:
        raise InputError(
            f"{file} has no number in its name; accepted: the image's row in the dataset, such as "
            f"123{file.suffix}"
        )
    return int(numbers[-1])


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    channels, height, width = shape
    try:
        with Image.open(file) as image:
            decoded = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None
    if decoded.shape[:2] != (height, width):
        found = "x".join(map(str, decoded.shape[1::-1]))
        raise InputError(f"{file} has {found} pixels, accepted: {width}x{height}")
    return np.atleast_3d(decoded).transpose(2, 0, 1)
