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
    does. A saved tensor that is damaged, or that of other files, is not used.

    Raises:
        OSError: a file is missing or is no image.
    """
    state = hashlib.sha256(f"{size}".encode())
    for file in files:
        stat = file.stat()
        state.update(f"\n{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}".encode())
    saved = root / "decoded" / f"{state.hexdigest()[:24]}.images"
    x = np.empty((len(files), 3, size, size), np.uint8)
    if _load(saved, x, state.digest()):
        return torch.from_numpy(x)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, image in enumerate(pool.map(lambda file: _read(file, size), files)):
            x[row] = image.transpose(2, 0, 1)
    draft = saved.with_suffix(f".{os.getpid()}")
    try:
        saved.parent.mkdir(exist_ok=True)
        with draft.open("wb") as stream:
            stream.write(x.data)
            stream.write(_seal(x, state.digest()))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(saved)
    except OSError as error:
        log.warning("decoded images cannot be saved: %s", error)
        with suppress(OSError):
            draft.unlink()
    return torch.from_numpy(x)


def _load(saved: Path, x: NDArray[np.uint8], source: bytes) -> bool:
    """Whether the file holds the pixels of the source, and nothing else; then x holds them too."""
    if not saved.is_file():
        return False
    try:
        with saved.open("rb") as stream:
            whole = stream.readinto(x.data) == x.nbytes
            if whole and stream.read(hashlib.sha256().digest_size + 1) == _seal(x, source):
                return True
        reason = "its checksum differs"
    except OSError as error:
        reason = str(error)
    log.info("%s is not used, the images are decoded anew: %s", saved, reason)
    return False


def _seal(x: NDArray[np.uint8], source: bytes) -> bytes:
    """What follows the pixels in the file: the sha256 of what was decoded and of the pixels."""
    return hashlib.sha256(source + hashlib.sha256(x.data).digest()).digest()


def _read(file: Path, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            rgb = image.convert("RGB")
    except (ValueError, SyntaxError) as error:  # what Pillow raises on some damaged files
        raise OSError(f"cannot decode {file}: {error}") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
