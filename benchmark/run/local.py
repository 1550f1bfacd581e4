"""Where jobs run: pools that say how many jobs they take, and the one of this machine."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from benchmark.run.failures import NotStarted, WorkerLost
from benchmark.run.worker import Child

STARTS = 3
"""Workers of one slot that may fail to come up before the slot is left alone."""


class Pool(Executor):
    """An executor that says how many jobs it takes; no job is ever queued inside it.

    Futures of jobs whose worker was taken away raise a `WorkerError`, those of workers that never
    came up `NotStarted`.
    """

    @abstractmethod
    def slots(self) -> int:
        """How many jobs may run at a time now."""

    @abstractmethod
    def free(self) -> int:
        """How many more jobs may be submitted now."""

    def submit_alone(
        self, fn: Callable[..., Any], /, *args: Any, **keywords: Any
    ) -> Future[Any] | None:
        """Submit a job that shares its device with no other; None: not now, ask again."""
        return self.submit(fn, *args, **keywords) if self.free() else None

    def wait(self, futures: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Those that have ended, as soon as there is one, or none after so many seconds."""
        waited = list(futures)
        if not waited:
            time.sleep(seconds)
        first = concurrent.futures.FIRST_COMPLETED
        return set(concurrent.futures.wait(waited, seconds, first).done)

    def close(self) -> None:
        """End at once, with what runs."""
        self.shutdown(wait=False)

    def now(self) -> float:
        """Seconds on the clock that these jobs run by."""
        return time.monotonic()


class SlotPool(Pool):
    """One process for each slot, pinned to its device before torch is imported.

    slots: what CUDA_VISIBLE_DEVICES says in the worker, such as "0", or "" for the CPU; one entry
    for each concurrent job. limit: seconds that a job may take. imports: modules that each worker
    loads before its first job.
    """

    def __init__(
        self, slots: Sequence[str], *, limit: float | None = None, imports: Sequence[str] = ()
    ) -> None:
        self._devices, self._limit, self._imports = tuple(slots), limit, imports
        self._children: list[Child | None] = [None] * len(slots)
        self._jobs: dict[int, Future[Any]] = {}
        self._starts: Counter[int] = Counter()
        self._reserved: str | None = None
        self._lone: dict[str, Future[Any]] = {}
        self._lock, self._closed = threading.Lock(), False
        self._threads = ThreadPoolExecutor(max(1, len(slots)))

    def slots(self) -> int:
        return len(self._devices)

    def free(self) -> int:
        return len(self._idle())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        return self._run(self._idle()[0], (fn, args, keywords))

    def submit_alone(
        self, fn: Callable[..., Any], /, *args: Any, **keywords: Any
    ) -> Future[Any] | None:
        """As soon as the device with the fewest jobs has none, which meanwhile gets no others."""
        busy = Counter(self._devices[slot] for slot in self._busy())
        if self._reserved is None:
            open_devices = [device for device in self._devices if not self._is_lone(device)]
            if not open_devices:
                return None
            self._reserved = min(open_devices, key=lambda device: busy[device])
        if busy[self._reserved]:
            return None
        device, self._reserved = self._reserved, None
        future = self._run(self._devices.index(device), (fn, args, keywords))
        self._lone[device] = future
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Kill all workers, with what runs in them."""
        with self._lock:
            self._closed = True
            for child in self._children:
                if child is not None:
                    child.kill()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _busy(self) -> set[int]:
        return {slot for slot, future in self._jobs.items() if not future.done()}

    def _is_lone(self, device: str) -> bool:
        return device in self._lone and not self._lone[device].done()

    def _idle(self) -> list[int]:
        busy = self._busy()
        return [
            slot
            for slot, device in enumerate(self._devices)
            if slot not in busy
            and self._starts[slot] < STARTS
            and device != self._reserved
            and not self._is_lone(device)
        ]

    def _run(self, slot: int, call: tuple[Any, ...]) -> Future[Any]:
        future = self._threads.submit(self._call, slot, pickle.dumps(call))
        self._jobs[slot] = future
        return future

    def _call(self, slot: int, message: bytes) -> Any:
        child = self._child(slot)
        try:
            return child.ask(message, self._limit)
        except NotStarted:
            self._starts[slot] += 1
            raise
        finally:
            if not child.alive:
                self._drop(slot)

    def _child(self, slot: int) -> Child:
        with self._lock:
            if self._closed:
                raise WorkerLost("the pool is closed")
            child = self._children[slot]
            if child is None or not child.alive:
                child = Child(self._environment(slot), self._imports)
                self._children[slot] = child
            return child

    def _drop(self, slot: int) -> None:
        with self._lock:
            child, self._children[slot] = self._children[slot], None
            if child is not None:
                child.kill()

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {"CUDA_VISIBLE_DEVICES": self._devices[slot]}
        if not self._devices[slot]:
            # Slots on the CPU share its cores instead of each claiming all of them.
            environment["OMP_NUM_THREADS"] = str(max(1, _cores() // self._devices.count("")))
        return environment


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
