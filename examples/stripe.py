"""Stripe: one bright column; for images of any number of channels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Recipe


@dataclass(frozen=True, kw_only=True)
class Stripe(DataPoisoning):
    """A column of the image moves towards white.

    column: counted from the left, 0 or more. opacity: of the white, in (0, 1].
    """

    name: ClassVar[str] = "Stripe"

    column: int = 1
    opacity: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "column", least=0)
        check_range(self, "opacity", above=0, most=1)

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        if self.column >= dataset.shape[2]:
            raise ValueError(f"column is {self.column}, accepted: below {dataset.shape[2]}")

    def trigger(self, x: Tensor) -> Tensor:
        striped = x.clone()
        striped[..., self.column] += self.opacity * (1 - striped[..., self.column])
        return striped
