"""What a pool of workers promises the driver."""

from __future__ import annotations

import concurrent.futures
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any


class Pool(ABC):
    """Workers that say how many jobs they take; no job is ever queued inside a pool.

    Futures of jobs whose worker was taken away raise a `WorkerError`, those of workers that never
    came up `NotStarted` (both in `benchmark.run.failures`).
    """

    @abstractmethod
    def slots(self) -> int:
        """How many jobs may run at a time now."""

    @abstractmethod
    def free(self) -> int:
        """How many more jobs may be submitted now."""

    @abstractmethod
    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Call an importable function in a worker; only while `free` is positive."""

    @abstractmethod
    def close(self) -> None:
        """End at once, with what runs."""

    def submit_alone(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any] | None:
        """Submit a job that shares its device with no other; None: not now, ask again."""
        return self.submit(function, *arguments) if self.free() else None

    def wait(self, futures: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Those that have ended, as soon as there is one, or none after so many seconds."""
        waited = list(futures)
        if not waited:
            time.sleep(seconds)
        first = concurrent.futures.FIRST_COMPLETED
        return set(concurrent.futures.wait(waited, seconds, first).done)

    def now(self) -> float:
        """Seconds on the clock that these jobs run by."""
        return time.monotonic()
