"""A defense that fails with seed 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from sau_bench.benchmark.data import Images
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Unlucky(Defense):
    """Yields the victim, or raises."""

    name: ClassVar[str] = "Unlucky"

    def __call__(self, model: Classifier, data: Images) -> Iterator[Classifier]:
        if torch.initial_seed() == 1:
            raise RuntimeError("out of luck")
        yield model
