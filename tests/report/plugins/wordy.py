"""A defense with settings that are no numbers: no table can use its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sau_bench.benchmark.data import Images
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Wordy(Defense):
    """Yields the victim."""

    name: ClassVar[str] = "Wordy"
    yields: ClassVar[Literal["rounds", "candidates"]] = "candidates"
    select: ClassVar[str] = "own"

    def __call__(self, model: Classifier, data: Images) -> Iterator[Any]:
        yield "high", model
