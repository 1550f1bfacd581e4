"""Drive the jobs of a grid over any `concurrent.futures.Executor` that says how much it takes.

The cache is the only truth: a job is done when its folder exists. Placement and the life of workers
belong to the pool. Here is what runs next, and what becomes of a job that did not go well.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.cache.claims import Claims
from benchmark.cache.store import Store
from benchmark.run.agenda import Agenda
from benchmark.run.durations import Durations, Plan, Step
from benchmark.run.failures import LOG_LINES, Failure, NotStarted, attempt, failure, kind_of
from benchmark.run.local import STARTS, Pool

State = Literal["cached", "started", "done", "failed", "blocked", "lost", "elsewhere"]
RETRIES = 2
"""Further tries of a job whose worker died."""
TICK = 0.5
"""Seconds between two looks at what changes without a job ending."""
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
    """A job in a worker: since when, by the pool's clock."""

    step: Step
    start: float


@dataclass
class Driver:
    """Runs what is missing of a plan.

    plan: needs before those that need them. work: runs one job in a worker and publishes it; a job
    that ran out of memory is given `micro_batches=2`. claims: entered. durations: expected, and
    learned from each job that ends. budget: seconds after which no job starts; one that would take
    longer than what is left of them does not start either. tick: called about twice a second with
    the jobs in flight by key.

    stopped: after `run`, why it ended early, if not for the budget.
    """

    plan: Plan
    store: Store
    pool: Pool
    work: Callable[..., None]
    claims: Claims
    durations: Durations = field(default_factory=Durations)
    budget: float | None = None
    tick: Callable[[Mapping[str, Trial]], None] = lambda _: None
    stopped: str = ""

    def __post_init__(self) -> None:
        done = {key for step in self.plan.values() for key in (step.key, *step.needs)}
        self.agenda = Agenda(self.plan, {key for key in done if key in self.store})
        self._alone: list[str] = []
        self._elsewhere: dict[str, float] = {}
        self._live: dict[Future[Any], Trial] = {}
        self._losses: Counter[str] = Counter()
        self._shortages: set[str] = set()
        self._not_started = 0
        self._end = float("inf")

    def run(self) -> Iterator[Outcome]:
        """Yields what happens to each job as it happens.

        A job that raises or runs too long fails for good and blocks its dependants; one whose
        worker dies is tried again at most twice; one that runs out of memory once, alone on its
        device in smaller batches. A full disk stops the run and is no job's fault. A job that
        another driver has claimed is waited for, or taken over. Everything else goes on.

        Raises:
            NoWorkers: workers die before they run anything, or their cluster is gone.
            RuntimeError: a need is neither among the jobs nor in the cache.
        """
        if self.budget is not None:
            self._end = self.pool.now() + self.budget
        yield from self._look()
        while self.agenda.open:
            yield from self._unless_full(self._start())
            if not self._live and not self._may_start():
                return
            self.tick({trial.step.key: trial for trial in self._live.values()})
            for future in self.pool.wait(self._live, TICK):
                yield from self._unless_full(self._collect(self._live.pop(future), future))

    def left(self) -> list[Step]:
        """What has neither run nor failed nor been blocked."""
        return [self.plan[key] for key in self.agenda.open]

    def _look(self) -> Iterator[Outcome]:
        """What is known before anything runs."""
        for key, step in self.plan.items():
            if key not in self.agenda.open:
                yield Outcome(step, "cached")
        for key in list(self.agenda.open):
            if key in self.agenda.open and (record := self.store.failure(key)):
                yield from self._give_up(key, "earlier: ", record["error"])

    def _start(self) -> Iterator[Outcome]:
        """Fill the pool with the jobs that come first, of those that may start."""
        if self.stopped:
            return
        yield from self._look_elsewhere()
        for key in list(self._alone):
            yield from self._submit(key, self.pool.submit_alone, micro_batches=2)
        room = min(len(self._live) + self.pool.free(), self.pool.slots())
        for key in self.agenda.in_order(self.durations, self.budget is not None) if room else ():
            if len(self._live) >= room:
                return
            if self._fits(key):
                self.agenda.ready.remove(key)
                if not self.claims.take(key):
                    self._elsewhere[key] = self.pool.now()
                    yield Outcome(self.plan[key], "elsewhere", self.claims.owner(key))
                elif not (yield from self._found(key)):
                    yield from self._submit(key, self.pool.submit)

    def _submit(
        self, key: str, submit: Callable[..., Future[Any] | None], **more: Any
    ) -> Iterator[Outcome]:
        step = self.plan[key]
        try:
            message = pickle.dumps((self.work, step.job))
        except Exception as error:  # pickling runs whatever the job brings along
            yield from self._fail(step, failure(error, "unpicklable"))
            return
        if future := submit(attempt, message, **more):
            self._live[future] = Trial(step, self.pool.now())
            if key in self._alone:
                self._alone.remove(key)
            yield Outcome(step, "started")

    def _look_elsewhere(self) -> Iterator[Outcome]:
        """Whether jobs of other drivers have ended, or their drivers."""
        now = self.pool.now()
        for key, looked in list(self._elsewhere.items()):
            if now - looked < LOOK:
                continue
            self._elsewhere[key] = now
            if key in self.store or self.claims.take(key):
                del self._elsewhere[key]
                if not (yield from self._found(key)):
                    self.agenda.ready.append(key)

    def _found(self, key: str) -> Generator[Outcome, None, bool]:
        """Whether another driver has finished the job in the meantime."""
        if key in self.store:
            self._settle(key)
            yield Outcome(self.plan[key], "cached")
        elif record := self.store.failure(key):
            yield from self._give_up(key, "elsewhere: ", record["error"])
        else:
            return False
        return True

    def _collect(self, trial: Trial, future: Future[Any]) -> Iterator[Outcome]:
        """What became of a job that has ended."""
        step, seconds = trial.step, self.pool.now() - trial.start
        key, error = step.key, future.exception()
        if isinstance(error, NotStarted):
            self._not_started += 1
            if self._not_started >= STARTS * max(1, self.pool.slots()):
                raise error
            self.agenda.ready.append(key)
            yield Outcome(step, "lost", str(error), seconds)
            return
        record: Failure | None = failure(error, log=self._log(key)) if error else future.result()
        if record is None and key in self.store:
            self.durations.learn(step.canonical, seconds, self.durations.device)
            self._settle(key)
            yield Outcome(step, "done", seconds=seconds)
            return
        record = record or {"kind": "error", "error": "the worker published nothing"}
        kind, text = record["kind"], record["error"]
        if kind == "full disk":
            self.stopped = f"the disk is full ({text})"
        elif kind == "worker lost" and self._losses[key] < RETRIES:
            self._losses[key] += 1
            self.agenda.ready.append(key)
            yield Outcome(step, "lost", f"{text}, try {self._losses[key] + 1}", seconds)
        elif kind == "out of memory" and key not in self._shortages:
            self._shortages.add(key)
            self._alone.append(key)
            yield Outcome(step, "lost", f"{text}; again, alone on its device", seconds)
        else:
            yield from self._fail(step, record, seconds)

    def _fail(self, step: Step, record: Failure, seconds: float = 0.0) -> Iterator[Outcome]:
        self.store.record_failure(step.key, record)
        yield from self._give_up(step.key, "", record["error"], seconds)

    def _give_up(self, key: str, since: str, error: str, seconds: float = 0.0) -> Iterator[Outcome]:
        """The job has failed, and what needs it is blocked."""
        blocked = self.agenda.give_up(key)
        self.claims.release(key)
        yield Outcome(self.plan[key], "failed", since + error, seconds)
        for name in blocked:
            yield Outcome(self.plan[name], "blocked", error)

    def _settle(self, key: str) -> None:
        self.agenda.settle(key)
        self.claims.release(key)

    def _may_start(self) -> bool:
        """Whether something can still start, now or when the pool or another driver lets it."""
        if self.stopped or self._end <= self.pool.now():
            return False
        return bool(self._alone or self._elsewhere) or any(map(self._fits, self.agenda.ready))

    def _fits(self, key: str) -> bool:
        return self.durations.seconds(self.plan[key]) <= self._end - self.pool.now()

    def _unless_full(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        try:
            yield from outcomes
        except OSError as error:
            if kind_of(error) != "full disk":
                raise
            self.stopped = f"the disk is full ({error})"

    def _log(self, key: str) -> str:
        """The end of the log that a worker left behind when it died."""
        for folder in self.store.drafts.glob(f"{key}.*"):
            try:
                return "\n".join((folder / "log.jsonl").read_text().splitlines()[-LOG_LINES:])
            except OSError:
                continue
        return ""
