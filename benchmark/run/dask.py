"""Jobs on an existing Dask cluster.

A Dask worker runs each job in a worker process as on one machine: a job that
dies, hangs or fills the memory takes no Dask worker with it, and one that nobody wants any more is
killed. Which device a job sees is what CUDA_VISIBLE_DEVICES says where its Dask worker was started.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from sau_bench.benchmark.errors import InputError, nearest, one_line, printable
from sau_bench.benchmark.run.failures import LINE, NotStarted, NoWorkers, WorkerError, WorkerLost
from sau_bench.benchmark.run.pool import Pool
from sau_bench.benchmark.run.worker import Worker

try:
    from distributed import Client, KilledWorker, Status, get_worker
    from distributed.client import ClosedClientError
except ImportError:
    raise InputError(
        "--engine dask needs the package 'distributed': pip install distributed"
    ) from None

TIMEOUT = 10
"""Seconds to wait for the scheduler."""
LOOK = 1.0
"""Seconds for which the number of slots that the cluster told is believed."""


class DaskPool(Pool):
    """One job for each unit of a resource that the workers offer now; workers may come and go.

    scheduler: an address such as "tcp://host:8786", or the path of a scheduler file. resource: what
    a job takes one of, as in `dask worker --resources GPU=1`. limit, imports: see `SlotPool`.

    Raises:
        InputError: no scheduler answers, or workers are there and none offers the resource.
    """

    def __init__(
        self,
        scheduler: str,
        resource: str = "GPU",
        *,
        limit: float | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        self._scheduler, self._resource = scheduler, resource
        self._more = limit, tuple(imports)
        self._live: set[Future[Any]] = set()
        self._looked, self._slots = float("-inf"), 0
        self._client = _connect(scheduler)
        self._executor = self._client.get_executor(
            pure=False, retries=0, resources={self._resource: 1}
        )
        offers = {name for worker in self._workers() for name in worker["resources"]}
        if self._workers() and resource not in offers:
            self._client.close()
            raise InputError(
                f"--resource {resource!r}: no worker at {scheduler} offers it; offered: "
                f"{', '.join(sorted(offers)) or 'none (dask worker --resources GPU=1)'}"
                f"{nearest(resource, offers)}"
            )

    def slots(self) -> int:
        if time.monotonic() - self._looked > LOOK:
            self._slots = int(sum(w["resources"].get(self._resource, 0) for w in self._workers()))
            self._looked = time.monotonic()
        return self._slots

    def free(self) -> int:
        self._live = {future for future in self._live if not future.done()}
        return max(0, self.slots() - len(self._live))

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        source = self._executor.submit(in_worker, *self._more, function, *arguments)
        future: Future[Any] = Future()
        source.add_done_callback(lambda source: _relay(source, future))
        self._live.add(future)
        return future

    def wait(self, futures: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        done = super().wait(futures, seconds)
        self._check()
        return done

    def close(self) -> None:
        """Take back what runs; the workers of the cluster stay."""
        with suppress(ClosedClientError):  # the scheduler is lost, and what ran there with it
            self._executor.shutdown(wait=False)
        self._client.close()

    def _workers(self) -> list[dict[str, Any]]:
        self._check()
        try:
            return list(self._client.scheduler_info(n_workers=-1)["workers"].values())
        except (OSError, TimeoutError):
            raise self._gone() from None

    def _check(self) -> None:
        if self._client.status != "running":
            raise self._gone()

    def _gone(self) -> NoWorkers:
        return NoWorkers(f"the scheduler at {self._scheduler} is gone")


_idle: list[Worker] = []
"""Processes of this Dask worker that wait for their next job."""


def in_worker(
    limit: float | None, imports: Sequence[str], function: Callable[..., Any], *arguments: Any
) -> Any:
    """On a Dask worker: let a process make the call, for as long as the task is wanted."""
    if multiprocessing.current_process().daemon:
        raise NotStarted(
            "a Dask worker may not start processes: start it with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False, or with --no-nanny"
        )
    worker = get_worker()
    task = worker.get_current_task()

    def wanted() -> bool:
        # A task whose client has cancelled it, or is gone, goes on in its thread all the same.
        if worker.status is not Status.running:
            return False
        state = worker.state.tasks.get(task)
        return state is not None and state.state not in ("cancelled", "released", "forgotten")

    try:
        process = _idle.pop()
    except IndexError:
        process = Worker({}, imports)
    try:
        return process.call(function, *arguments, limit=limit, wanted=wanted)
    finally:
        if process.alive:
            _idle.append(process)


class _Client(Client):
    """A client that its pool closes: the last words of one that never connected take 20 s."""

    def __del__(self) -> None:
        """Nothing; see above."""


def _connect(scheduler: str) -> Client:
    path = Path(scheduler)
    is_file = "://" not in scheduler and (path.suffix == ".json" or path.exists())
    address = _address(path) if is_file else scheduler
    try:
        return _Client(address, timeout=TIMEOUT, set_as_default=False)
    except Exception as error:  # an address may fail in many ways in as many libraries
        text = printable(one_line(error), LINE) or type(error).__name__
        raise InputError(f"--scheduler: no scheduler answers at {scheduler!r}: {text}") from None


def _address(file: Path) -> str:
    """The address in a scheduler file.

    Raises:
        InputError: no such file, or another kind of file.
    """
    if not file.is_file():
        raise InputError(f"--scheduler: there is no scheduler file {str(file)!r}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str) or "://" not in address:
        raise InputError(
            f"--scheduler: {str(file)!r} is no scheduler file, accepted: what `dask scheduler "
            "--scheduler-file FILE` writes, or an address such as tcp://host:8786"
        )
    return address


def _relay(source: Future[Any], future: Future[Any]) -> None:
    try:
        future.set_result(source.result())
    except (WorkerError, NoWorkers) as error:
        future.set_exception(error)
    except KilledWorker:
        future.set_exception(WorkerLost("the Dask worker died"))
    except CancelledError:
        future.set_exception(WorkerLost("the cluster has dropped the job"))
    except Exception as error:  # of the cluster's own machinery
        future.set_exception(error)
