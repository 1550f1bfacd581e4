"""The pool of one machine: a worker process for each slot."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from joblib import cpu_count

from sau_bench.benchmark.run.failures import NotStarted, WorkerLost
from sau_bench.benchmark.run.pool import Pool
from sau_bench.benchmark.run.worker import Worker

STARTS = 3
"""Workers of one slot that may fail to come up before the slot is left alone."""


class LocalPool(Pool):
    """One process for each slot, pinned to its device before torch is imported.

    devices: what CUDA_VISIBLE_DEVICES says in each worker, such as "0", or "" for the CPU; one
    entry a slot. limit: seconds that a job may take. imports: modules that each worker loads before
    its first job.
    """

    def __init__(
        self, devices: Sequence[str], *, limit: float | None = None, imports: Sequence[str] = ()
    ) -> None:
        self._devices, self._limit, self._imports = tuple(devices), limit, imports
        self._workers: list[Worker | None] = [None] * len(devices)
        self._jobs: dict[int, Future[Any]] = {}
        self._starts: Counter[int] = Counter()
        self._reserved: str | None = None
        self._lone: dict[str, Future[Any]] = {}
        self._lock, self._closed = threading.Lock(), False
        self._threads = ThreadPoolExecutor(max(1, len(devices)))

    def slots(self) -> int:
        return len(self._devices)

    def free(self) -> int:
        return len(self._idle())

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        return self._run(self._idle()[0], function, arguments)

    def submit_alone(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any] | None:
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
        future = self._run(self._devices.index(device), function, arguments)
        self._lone[device] = future
        return future

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for worker in self._workers:
                if worker is not None:
                    worker.kill()
        self._threads.shutdown(wait=False)

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

    def _run(
        self, slot: int, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Future[Any]:
        future = self._threads.submit(self._wait_for, slot, function, arguments)
        self._jobs[slot] = future
        return future

    def _wait_for(self, slot: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        worker = self._worker(slot)
        try:
            return worker.call(function, *arguments, limit=self._limit)
        except NotStarted:
            self._starts[slot] += 1
            raise
        finally:
            if not worker.alive:
                self._drop(slot)

    def _worker(self, slot: int) -> Worker:
        with self._lock:
            if self._closed:
                raise WorkerLost("the pool is closed")
            worker = self._workers[slot]
            if worker is None or not worker.alive:
                worker = Worker(self._environment(slot), self._imports)
                self._workers[slot] = worker
            return worker

    def _drop(self, slot: int) -> None:
        with self._lock:
            worker, self._workers[slot] = self._workers[slot], None
            if worker is not None:
                worker.kill()

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {"CUDA_VISIBLE_DEVICES": self._devices[slot]}
        if not self._devices[slot]:
            # Slots on the CPU share its cores instead of each claiming all of them.
            threads = max(1, cpu_count() // self._devices.count(""))
            environment["OMP_NUM_THREADS"] = str(threads)
        return environment
