"""Drive the jobs of a grid over any `concurrent.futures.Executor`.

The cache is the only truth: a job is done when its folder exists. Placement and the life of workers
belong to the executor; locally that is one single-worker process pool for each device slot, so that
a worker that dies takes nobody else's job with it.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from joblib.externals.loky.process_executor import ProcessPoolExecutor

from benchmark.jobs import Job, key, needs
from benchmark.store import Store

State = Literal["cached", "started", "done", "failed", "blocked", "lost"]
RETRIES = 2


@dataclass(frozen=True)
class Outcome:
    """Something that happened to a job. detail: why, for failed, blocked and lost."""

    job: Job
    state: State
    detail: str = ""
    seconds: float = 0.0


class SlotPool(Executor):
    """One process for each slot, pinned to its device before torch is imported.

    slots: a CUDA device index such as "0", or "" for the CPU, one entry for each concurrent job.
    """

    def __init__(self, slots: Sequence[str]) -> None:
        self._pools: dict[int, ProcessPoolExecutor | None] = dict.fromkeys(range(len(slots)))
        self._slots = slots
        self._busy: dict[Future[Any], int] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start on a free slot; the driver never submits more jobs than there are slots."""
        busy = {slot for future, slot in self._busy.items() if not future.done()}
        slot = next(s for s in range(len(self._slots)) if s not in busy)
        self._busy = {f: s for f, s in self._busy.items() if s in busy}
        pool = self._pools[slot] or self._start(slot)
        try:
            future = pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            pool = self._start(slot)
            future = pool.submit(fn, *args, **kwargs)
        self._busy[future] = slot
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for pool in self._pools.values():
            if pool is not None:
                pool.shutdown(wait=wait, kill_workers=True)

    def _start(self, slot: int) -> ProcessPoolExecutor:
        env = {"CUDA_VISIBLE_DEVICES": self._slots[slot]}
        if not self._slots[slot]:
            # Slots on the CPU share its cores instead of each claiming all of them.
            env["OMP_NUM_THREADS"] = str(max(1, _cores() // self._slots.count("")))
        pool = ProcessPoolExecutor(
            1,
            env=env,
            initializer=_watch_parent,
            initargs=(os.getpid(),),
        )
        self._pools[slot] = pool
        return pool


def run(
    jobs: Sequence[Job],
    store: Store,
    pool: Executor,
    work: Callable[[Job], None],
    slots: int,
    tick: Callable[[Mapping[str, Job]], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Run what is missing, dependencies first; yields what happens to each job as it happens.

    Args:
        jobs: with everything they need, in order of preference.
        work: runs one job in a worker and publishes it.
        slots: jobs in flight at a time; no job is ever queued inside the executor, so that the
            death of a worker is blamed on the job that ran in it.
        tick: called about twice a second with the jobs in flight by key.

    A job that raises fails for good and blocks its dependants; one whose worker dies is tried
    again at most twice. Everything else goes on.
    """
    waiting = {key(job): job for job in jobs}
    for name in [name for name in waiting if name in store]:
        yield Outcome(waiting.pop(name), "cached")
    bad: dict[str, str] = {}
    for name in list(waiting):
        if failure := store.failure(name):
            bad[name] = failure["error"]
            yield Outcome(waiting.pop(name), "failed", f"earlier: {failure['error']}")
    losses: dict[str, int] = {}
    live: dict[Future[Any], tuple[str, Job, float]] = {}
    while waiting or live:
        for name, job in list(waiting.items()):
            culprit = next((n for n in map(key, needs(job)) if n in bad), None)
            if culprit:
                bad[name] = bad[culprit]
                yield Outcome(waiting.pop(name), "blocked", bad[culprit])
        ready = [n for n, job in waiting.items() if all(key(d) in store for d in needs(job))]
        for name in ready[: slots - len(live)]:
            job = waiting.pop(name)
            live[pool.submit(work, job)] = (name, job, time.monotonic())
            yield Outcome(job, "started")
        if not live:
            if waiting:
                raise RuntimeError("jobs wait for something that is not among the jobs")
            return
        tick({name: job for name, job, _ in live.values()})
        for future in wait(live, timeout=0.5, return_when=FIRST_COMPLETED).done:
            name, job, start = live.pop(future)
            seconds = time.monotonic() - start
            error = future.exception()
            if error is None and name in store:
                yield Outcome(job, "done", seconds=seconds)
            elif isinstance(error, BrokenProcessPool) and losses.get(name, 0) < RETRIES:
                losses[name] = losses.get(name, 0) + 1
                waiting[name] = job
                yield Outcome(job, "lost", f"worker died, try {losses[name] + 1}", seconds)
            else:
                failure = _failure(error)
                store.record_failure(name, failure)
                bad[name] = failure["error"]
                yield Outcome(job, "failed", failure["error"], seconds)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failure(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {"error": "the worker published nothing", "traceback": ""}
    text = str(error).strip().splitlines()
    return {
        "error": f"{type(error).__name__}: {text[0] if text else ''}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _watch_parent(driver: int) -> None:
    """End the worker soon after its driver is gone, however the driver went."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def work(job: Job, cache: Path, data: Path) -> None:
    """Run one job in this worker, on the one device it can see."""
    import torch

    from benchmark.execute import execute

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    execute(job, Store(cache), device, data)
