"""Dimming: the whole image becomes darker; an attack that a package of its own offers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Dimming(DataPoisoning):
    """x becomes (1 - darkness) x. darkness: in (0, 1]."""

    name: ClassVar[str] = "Dimming"

    darkness: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "darkness", above=0, most=1)

    def trigger(self, x: Tensor) -> Tensor:
        return (1 - self.darkness) * x
