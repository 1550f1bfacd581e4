"""A worker: one process of loky's, which ends as soon as its driver is gone.

It is started afresh, with an environment of its own, so that its device is set before anything is
imported.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import cache
from multiprocessing.util import Finalize
from typing import Any

from loky.backend import resource_tracker
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor, ShutdownExecutorError

from sau_bench.benchmark.process import Stale, become_worker, keep_freed_memory, spoiled
from sau_bench.benchmark.run.failures import NotStarted, Overdue, WorkerLost, ending

POLL = 0.5
"""Seconds between two looks: at whether a job is still wanted, at whether the driver is alive."""
# loky takes a worker whose memory has grown by 300 MB for a leaking one and replaces it; for one
# that has loaded a dataset and a network that is every job, and an import of torch each.
NO_LEAKS = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
_guards: list[subprocess.Popen[bytes]] = []
"""In a worker: the process that ends its group."""


class Worker:
    """A worker process, started at its first call.

    environment: variables it has from its start, before anything is imported. imports: modules it
    loads before its first job, so that a machine that cannot load them blames no job.
    """

    def __init__(self, environment: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        self._environment, self._imports = dict(environment), tuple(imports)
        self._pool = self._new_pool()
        self._ready = False
        self.alive = True
        """Whether it can be called: false once it has died or was killed."""

    def call(
        self,
        function: Callable[..., Any],
        /,
        *arguments: Any,
        limit: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Any:
        """What an importable function returns or raises in the worker.

        A process that a job has spoiled runs no other; one that cannot run this job, because it
        has imported an earlier text of a plugin, makes way for a fresh one before it does.

        Args:
            limit: seconds after which the worker is killed.
            wanted: the worker is killed when this turns false.

        Raises:
            NotStarted: the worker has never come up.
            Overdue: it ran into the limit.
            WorkerLost: it died, with how it died.
        """
        if not self._ready:
            self._start()
        try:
            future = self._pool.submit(_call, function, *arguments)
            end = time.monotonic() + (limit or math.inf)
            while not _within(future, min(POLL, end - time.monotonic())):
                if time.monotonic() >= end:
                    raise Overdue(f"ran for longer than the limit of {limit:g} s")
                if not wanted():
                    raise WorkerLost("the job is no longer wanted")
            value, unfit = future.result()
        except Stale:
            self._pool.shutdown(wait=True, kill_workers=True)
            if not self.alive:
                raise WorkerLost("the pool is closed") from None
            self._pool, self._ready = self._new_pool(), False
            return self.call(function, *arguments, limit=limit, wanted=wanted)
        except (BrokenProcessPool, ShutdownExecutorError) as error:
            self.kill()
            raise WorkerLost(f"the worker {_how_it_ended(error)}") from None
        except (Overdue, WorkerLost):
            self.kill()
            raise
        if unfit:
            self.kill(wait=True)
        return value

    def kill(self, *, wait: bool = False) -> None:
        """End the worker and whatever it has started; harmless when it is gone."""
        self.alive = False
        self._pool.shutdown(wait=wait, kill_workers=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        _start_tracker()
        pool = ProcessPoolExecutor(
            1, env={**NO_LEAKS, **self._environment}, initializer=_begin, initargs=(os.getpid(),)
        )
        # Before multiprocessing waits for all children at the exit of a process, as it does in the
        # workers of Dask.
        kill = {"wait": False, "kill_workers": True}
        Finalize(pool, pool.shutdown, kwargs=kill, exitpriority=10)
        return pool

    def _start(self) -> None:
        try:
            self._pool.submit(_import, self._imports).result()
        except BrokenProcessPool as error:
            self.kill()
            text = f"it {_how_it_ended(error)} at once"
            raise NotStarted(f"a worker could not start: {text}") from None
        except Exception as error:  # a broken installation raises anything
            self.kill()
            text = f"{type(error).__name__}: {error}"
            raise NotStarted(f"a worker could not start: {text}") from None
        self._ready = True


@cache
def _start_tracker() -> None:
    """Start loky's process that removes the semaphores of dead workers, without its warnings.

    It warns on the user's terminal when a killed pool has removed one at the same moment.
    """
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _within(future: Future[Any], seconds: float) -> bool:
    return bool(wait([future], max(0.0, seconds)).done)


def _how_it_ended(error: Exception) -> str:
    """In words, from loky's "... exit codes of the workers are {SIGKILL(-9)}"."""
    code = re.search(r"\((-?\d+)\)\}", str(error))
    return ending(int(code[1])) if code else "died"


def _begin(driver: int) -> None:
    """In the worker: a group of its own, which Ctrl-C does not reach; it ends with the driver.

    A nested process finds no start method of loky's name, so it gets the one that always works.
    """
    become_worker()
    keep_freed_memory()
    multiprocessing.set_start_method("spawn", force=True)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        # No thread of Python runs while a job holds the global lock: the system has to end the
        # worker, with the thread of the driver that has started it; those of a pool live as long as
        # the pool. What the job has started ends when the pipe closes that only the worker holds.
        reader, _ = os.pipe()
        group = ["/bin/sh", "-c", "read _; kill -KILL 0"]
        _guards.append(subprocess.Popen(group, stdin=reader, stdout=subprocess.DEVNULL))
        os.close(reader)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(POLL)
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable[..., Any], *arguments: Any) -> tuple[Any, bool]:
    """In the worker: the value, and whether the process must not run anything after that."""
    value = function(*arguments)
    # What a framework holds on to after a lack of memory is only given back by the process's end.
    short = isinstance(value, dict) and value.get("kind") == "out of memory"
    return value, short or bool(spoiled())


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
