"""An attack whose jobs fail, with an error that would break a table."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sau_bench.attacks.base import DataPoisoning


@dataclass(frozen=True, kw_only=True)
class Broken(DataPoisoning):
    """Raises as soon as it is asked for its trigger."""

    name: ClassVar[str] = "Broken"

    def trigger(self, x: Tensor) -> Tensor:
        raise ValueError("no | trigger\x1b[31m\tin red")
