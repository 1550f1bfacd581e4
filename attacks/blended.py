"""Blended: a picture shines through every image (Chen et al. 2017, arXiv 1712.05526)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.errors import check_range, shown

PICTURE = Path(__file__).with_name("pictures") / "blended.png"


@dataclass(frozen=True, kw_only=True)
class Blended(DataPoisoning):
    """x becomes (1 - alpha) x + alpha K with a fixed picture K, resized to the image.

    alpha: opacity of the picture in training and at test time, in (0, 1]. image: path of another
    picture; empty is the one that `attacks/pictures/draw.py` draws. Images of one channel get the
    picture in grey.

    Note: the picture of the published experiments is not in this repository. The one here is close
    to it in brightness and contrast (mean of a channel within 15 and standard deviation within 10
    of 255 levels), not equal.
    """

    name: ClassVar[str] = "Blended"

    alpha: float = 0.2
    image: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "alpha", above=0, most=1)
        if not self.image:
            return
        if not Path(self.image).is_file():
            raise ValueError(f"image {shown(self.image)} is not a file")
        try:
            Image.open(self.image).close()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise ValueError(f"image {shown(self.image)} is no picture") from None

    def trigger(self, x: Tensor) -> Tensor:
        picture = _picture(self._content, *x.shape[1:]).to(x.device)
        return x * (1 - self.alpha) + picture * self.alpha

    def canonical(self) -> dict[str, Any]:
        """The picture counts by its content, not by its path."""
        return super().canonical() | {"image": hashlib.sha256(self._content).hexdigest()}

    @cached_property
    def _content(self) -> bytes:
        """The file, read once: the key describes the very pixels of the trigger."""
        return Path(self.image or PICTURE).read_bytes()


@lru_cache(maxsize=8)
def _picture(content: bytes, channels: int, height: int, width: int) -> Tensor:
    """The picture squeezed to the image's size, float (1, channels, height, width) in [0, 1]."""
    whole = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB")
    picture = np.array(whole.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(np.atleast_3d(picture)).permute(2, 0, 1)[None].float().div(255)
