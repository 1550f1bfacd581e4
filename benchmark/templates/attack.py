"""My plugin: what it does in a few words (authors, venue, year, arXiv number)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class MyPlugin(DataPoisoning):
    """A bright cross in the middle of the image. <- say what yours does

    arm: length of the cross's arms in pixels, 1 to 1,000. value: its brightness, in (0, 1].
    """

    # DataPoisoning stamps and relabels a share `ratio` of the training images, to the class
    # `target`, and trains. An attack that trains in another way derives from `Attack`.
    name: ClassVar[str] = "My plugin"  # what tables print

    # Hyper-parameters, with types and defaults: a config sets them, the docstring explains them.
    arm: int = 3
    value: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Bad values end in one line, before a grid starts.
        check_range(self, "arm", least=1, most=1000)
        check_range(self, "value", above=0, most=1)

    def trigger(self, x: Tensor) -> Tensor:
        # x: images of any size, float (B, C, H, W) in [0, 1], one channel or three. Return new
        # images of the same shape and range; x itself must stay as it is.
        stamped = x.clone()
        row, column = x.shape[-2] // 2, x.shape[-1] // 2
        top, left = max(0, row - self.arm), max(0, column - self.arm)
        stamped[..., top : row + self.arm + 1, column] = self.value
        stamped[..., row, left : column + self.arm + 1] = self.value
        return stamped.clamp(0, 1)
