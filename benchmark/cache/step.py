"""Steps: jobs as the driver and the cache see them, without what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sau_bench.benchmark.cache.description import Description


@dataclass(frozen=True)
class Step:
    """A job of a plan, hashed once.

    title: for people. job: what a worker runs, picklable. needs: keys of jobs whose results it
    reads. row: key of the victim whose row of the tables the job belongs to. texts: digests of the
    plugin files it runs, by role. flops: floating-point operations of one training pass over the
    training set, for estimates; 0 if unknown.
    """

    key: str
    title: str
    description: Description
    job: Any = field(default=None, compare=False)
    needs: tuple[str, ...] = ()
    row: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    flops: float = 0.0

    def __str__(self) -> str:
        return self.title


Plan = dict[str, Step]
"""Steps by key, needs before those that need them, in order of preference."""
