"""Drive the jobs of a plan over a pool of workers.

The cache is the only truth: a job is done when its folder exists. Placement and the life of workers
belong to the pool. Here is what runs next, and what becomes of a job that did not go well.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import printable
from sau_bench.benchmark.run.durations import Durations, Work, chains, row_order
from sau_bench.benchmark.run.failures import (
    LINE,
    LOG_LINES,
    Failure,
    NotStarted,
    cleaned,
    failure,
    kind_of,
    recorded,
    run_or_report,
)
from sau_bench.benchmark.run.local import STARTS
from sau_bench.benchmark.run.pool import Pool

State = Literal["cached", "started", "done", "failed", "blocked", "lost", "elsewhere"]
RETRIES = 2
"""Further tries of a job whose worker died."""
TICK = 0.5
"""Seconds between two looks at what changes without a job ending."""
TAIL = 1 << 16
"""Bytes at the end of a log that are read."""
LOOK = 1.0
"""Seconds between two looks at a job that runs in another driver."""


@dataclass(frozen=True)
class Outcome:
    """Something that happened to a job. detail: why, for failed, blocked, lost and elsewhere."""

    step: Step
    state: State
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A job in a worker. start: by the clock of the pool."""

    step: Step
    start: float


@dataclass
class Driver:
    """Runs what is missing of a plan.

    work: runs one job in a worker and publishes it. emit: called with each outcome as it happens.
    claims: entered. durations: expected, and learned from each job that ends. budget: seconds after
    which no job starts; one that would take longer than what is left of them does not start either.
    tick: called about twice a second with the jobs in flight by key.

    open: keys of the jobs that are neither done nor given up, in the order of the plan. stopped:
    after `run`, why it ended early, if not for the budget.
    """

    plan: Plan
    store: Store
    pool: Pool
    work: Callable[[Any], None]
    claims: Claims
    emit: Callable[[Outcome], None]
    durations: Durations = field(default_factory=Durations)
    budget: float | None = None
    tick: Callable[[Mapping[str, Trial]], None] = lambda _: None
    stopped: str = ""

    def __post_init__(self) -> None:
        cached = {k for step in self.plan.values() for k in (step.key, *step.needs)}
        cached = {key for key in cached if key in self.store}
        self.open = {key: None for key in self.plan if key not in cached}
        self._graph: TopologicalSorter[str] = TopologicalSorter()
        self._dependants: dict[str, list[str]] = defaultdict(list)
        for key in self.open:
            needs = [need for need in self.plan[key].needs if need not in cached]
            for need in needs:
                if need not in self.plan:
                    raise RuntimeError(
                        f"{self.plan[key]} needs {need}, which is neither a job of the plan nor in "
                        "the cache"
                    )
                self._dependants[need].append(key)
            self._graph.add(key, *needs)
        self._graph.prepare()
        self._ready: list[str] = []  # what waits for a slot
        self._alone: list[str] = []  # what waits for a device of its own
        self._elsewhere: dict[str, float] = {}  # when another driver's job was looked at last
        self._live: dict[Future[Any], Trial] = {}
        self._messages: dict[str, bytes] = {}
        self._losses: Counter[str] = Counter()
        self._shortages: set[str] = set()
        self._ranks: dict[str, tuple[float, ...]] = {}
        self._not_started = 0
        self._end = float("inf")

    def run(self) -> None:
        """Run until nothing is open or nothing can start.

        A job that raises or runs too long fails for good and blocks its dependants; by bad input,
        such as a damaged folder that it needs, only until the next run. One whose worker dies is
        tried again at most twice; one that runs out of memory once, alone on its device in a fresh
        worker. A full disk stops the run and is no job's fault. A job that
        another driver has claimed is waited for, or taken over. Everything else goes on.

        Raises:
            NoWorkers: workers die before they run anything, or their cluster is gone.
        """
        if self.budget is not None:
            self._end = self.pool.now() + self.budget
        self._emit_known()
        while self.open:
            try:
                self._start_jobs()
                if not self._live and not self._may_start():
                    return
                self.tick({trial.step.key: trial for trial in self._live.values()})
                for future in self.pool.wait(self._live, TICK):
                    self._collect(self._live.pop(future), future)
            except OSError as error:
                if kind_of(error) != "full disk":
                    raise
                self.stopped = f"the disk is full ({error})"

    def left(self) -> list[Step]:
        """What has neither run nor failed nor been blocked."""
        return [self.plan[key] for key in self.open]

    def _emit_known(self) -> None:
        """What is known before anything runs."""
        for key, step in self.plan.items():
            if key not in self.open:
                self.emit(Outcome(step, "cached"))
        for key in list(self.open):
            if key in self.open and (record := self._remembered(key)):
                self._give_up(key, f"earlier: {record['error']}", record["error"])

    def _remembered(self, key: str) -> Failure | None:
        """Why the job failed earlier, if it would fail again."""
        record = recorded(self.store, key)
        return None if record is None or record.get("kind") == "bad input" else record

    def _start_jobs(self) -> None:
        """Fill the pool with the jobs that come first, of those that may start."""
        if self.stopped:
            return
        self._look_elsewhere()
        for key in list(self._alone):
            self._submit(key, self.pool.submit_alone)
        room = min(len(self._live) + self.pool.free(), self.pool.slots())
        for key in self._in_order() if room else ():
            if len(self._live) >= room:
                return
            if not self._fits(key):
                continue
            self._ready.remove(key)
            if not self.claims.take(key):
                self._elsewhere[key] = self.pool.now()
                self.emit(Outcome(self.plan[key], "elsewhere", self.claims.owner(key)))
            elif not self._ended_elsewhere(key):
                self._submit(key, self.pool.submit)

    def _in_order(self) -> list[str]:
        """The jobs that wait for nothing but a slot, the longest chain of work first.

        With a budget those first that complete the rows of the tables which need least.
        """
        new = [key for key in self._graph.get_ready() if key in self.open]
        self._ready += new
        if not self._ranks:
            chain = chains(self.plan, self.open, self.durations)
            by_row = self.budget is not None
            rows = row_order(self.plan, self.open, self.durations) if by_row else {}
            self._ranks = {
                key: (rows.get(key, 0), -chain[key], i) for i, key in enumerate(self.open)
            }
        return sorted(self._ready, key=self._ranks.__getitem__)

    def _submit(self, key: str, submit: Callable[..., Future[Any] | None]) -> None:
        step = self.plan[key]
        try:
            message = self._messages.get(key) or pickle.dumps((self.work, step.job))
        except Exception as error:  # pickling runs whatever the job brings along
            self._fail(step, failure(error, "unpicklable"))
            return
        self._messages[key] = message
        if future := submit(run_or_report, message):
            self._live[future] = Trial(step, self.pool.now())
            if key in self._alone:
                self._alone.remove(key)
            self.emit(Outcome(step, "started"))

    def _look_elsewhere(self) -> None:
        """Whether jobs of other drivers have ended, or their drivers."""
        now = self.pool.now()
        for key, looked in list(self._elsewhere.items()):
            if now - looked < LOOK:
                continue
            self._elsewhere[key] = now
            if key in self.store or self.claims.take(key):
                del self._elsewhere[key]
                if not self._ended_elsewhere(key):
                    self._ready.append(key)

    def _ended_elsewhere(self, key: str) -> bool:
        """Whether another driver has ended the job in the meantime."""
        if key in self.store:
            self._settle(key)
            self.emit(Outcome(self.plan[key], "cached"))
        elif record := self._remembered(key):
            self._give_up(key, f"elsewhere: {record['error']}", record["error"])
        else:
            return False
        return True

    def _collect(self, trial: Trial, future: Future[Any]) -> None:
        """What became of a job that has ended."""
        step, seconds = trial.step, self.pool.now() - trial.start
        key, error = step.key, future.exception()
        if isinstance(error, NotStarted):
            self._not_started += 1
            if self._not_started >= STARTS * max(1, self.pool.slots()):
                raise error
            self._ready.append(key)
            self.emit(Outcome(step, "lost", str(error), seconds))
            return
        record: Failure | None = failure(error, log=self._log(key)) if error else future.result()
        if record is None and key in self.store:
            self.durations.learn(Work.of(step.description, step.flops), seconds)
            self._settle(key)
            self.emit(Outcome(step, "done", seconds=seconds))
            return
        record = cleaned(record or {"kind": "error", "error": "the worker published nothing"})
        kind, text = record["kind"], record["error"]
        if kind == "full disk":
            self.stopped = f"the disk is full ({text})"
        elif kind == "worker lost" and self._losses[key] < RETRIES:
            self._losses[key] += 1
            self._ready.append(key)
            self.emit(Outcome(step, "lost", f"{text}, try {self._losses[key] + 1}", seconds))
        elif kind == "out of memory" and key not in self._shortages:
            self._shortages.add(key)
            self._alone.append(key)
            self.emit(Outcome(step, "lost", f"{text}; again, alone on its device", seconds))
        else:
            self._fail(step, record, seconds)

    def _fail(self, step: Step, record: Failure, seconds: float = 0.0) -> None:
        self.store.record_failure(step.key, record)
        self._give_up(step.key, record["error"], record["error"], seconds)

    def _give_up(self, key: str, detail: str, cause: str, seconds: float = 0.0) -> None:
        """The job has failed, and what needs it, directly or not, is blocked."""
        self._drop(key)
        self.emit(Outcome(self.plan[key], "failed", detail, seconds))
        waiting = list(self._dependants[key])
        for name in waiting:
            if name in self.open:
                self._drop(name)
                self.emit(Outcome(self.plan[name], "blocked", cause))
                waiting += self._dependants[name]

    def _settle(self, key: str) -> None:
        """The job is done: what has waited for it alone is ready."""
        self._drop(key)
        self._graph.done(key)

    def _drop(self, key: str) -> None:
        """The job is no longer open."""
        self.claims.release(key)
        self._messages.pop(key, None)
        self._ranks = {}
        del self.open[key]
        if key in self._ready:
            self._ready.remove(key)

    def _may_start(self) -> bool:
        """Whether something can still start, now or when the pool or another driver lets it."""
        if self.stopped or self._end <= self.pool.now():
            return False
        return bool(self._alone or self._elsewhere) or any(map(self._fits, self._in_order()))

    def _fits(self, key: str) -> bool:
        return self.durations.seconds(self.plan[key]) <= self._end - self.pool.now()

    def _log(self, key: str) -> str:
        """The end of the log that a worker left behind when it died."""
        for draft in self.store.unfinished():
            if draft.key == key and (lines := last_lines(draft.folder / "log.jsonl")):
                texts = [line.decode(errors="replace") for line in lines[-LOG_LINES:]]
                return "\n".join(printable(text, LINE) for text in texts)
        return ""


def last_lines(file: Path) -> list[bytes]:
    """The last lines of a log that may be long; the first of them may be cut."""
    if not file.is_file():
        return []
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL))
            return stream.read().splitlines()
    except OSError:  # published or dropped at this moment
        return []
