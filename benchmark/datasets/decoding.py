"""Image files as one tensor, decoded once for all jobs of a grid."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)


def decoded(files: Sequence[Path], size: int, root: Path) -> Tensor:
    """The images as RGB, uint8 (N, 3, size, size), in the order of the files.

    An image of another size is resized bilinearly with antialiasing, whatever its proportions. The
    tensor is saved below `root/decoded`, under a name that changes with the name, size or time of
    any file, so that only the first job of a grid decodes; where nothing can be written, every job
    does.

    Raises:
        OSError: a file is missing or is no image.
    """
    state = hashlib.sha256(f"{size}".encode())
    for file in files:
        stat = file.stat()
        state.update(f"\n{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}".encode())
    saved = root / "decoded" / f"{state.hexdigest()[:24]}.npy"
    if saved.is_file():
        return torch.from_numpy(np.load(saved))
    x = np.empty((len(files), 3, size, size), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, image in enumerate(pool.map(lambda file: _read(file, size), files)):
            x[row] = image.transpose(2, 0, 1)
    draft = saved.with_suffix(f".{os.getpid()}")
    try:
        saved.parent.mkdir(exist_ok=True)
        with draft.open("wb") as stream:
            np.save(stream, x)
        draft.replace(saved)
    except OSError as error:
        log.warning("decoded images cannot be saved: %s", error)
        with suppress(OSError):
            draft.unlink()
    return torch.from_numpy(x)


def _read(file: Path, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            rgb = image.convert("RGB")
    except (ValueError, SyntaxError) as error:  # what Pillow raises on some damaged files
        raise OSError(f"cannot decode {file}: {error}") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
