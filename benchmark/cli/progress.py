"""What a person sees of a running grid: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from benchmark.cache.drafts import Draft
from benchmark.cache.store import Store
from benchmark.grid.grid import NO_DEFENSE, Grid
from benchmark.grid.labels import AXES
from benchmark.jobs.job import AssetJob, Job, key, needs
from benchmark.run.driver import Outcome, Trial
from benchmark.run.durations import Durations, Plan, wall_time
from benchmark.run.local import Pool

TAIL = 1 << 16
"""Bytes at the end of a log that are read for its last epoch."""


class Progress:
    """Shows outcomes as they come and, on a terminal, what runs now and how long it may take."""

    def __init__(self, plan: Plan, store: Store, pool: Pool, durations: Durations) -> None:
        self.console = Console()
        self.plan, self.store, self.pool, self.durations = plan, store, pool, durations
        self.counts: Counter[str] = Counter()
        self.open = dict.fromkeys(plan)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            auto_refresh=False,
        )
        self.total = self.bars.add_task("jobs", total=len(plan), note="")
        self.tasks: dict[str, TaskID] = {}
        self.live = Live(Group(self.bars), console=self.console, transient=True)

    def __enter__(self) -> Progress:
        if not self.pool.slots():
            self.console.print("no worker is there yet: waiting for one", highlight=False)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def show(self, outcome: Outcome) -> None:
        """One line for what happened."""
        self.counts[outcome.state] += 1
        if outcome.state not in ("started", "lost", "elsewhere"):
            self.open.pop(outcome.step.key, None)
        took = f" in {duration(outcome.seconds)}" if outcome.seconds else ""
        detail = f": {outcome.detail}" if outcome.detail else ""
        if outcome.state != "cached":
            finished = len(self.plan) - len(self.open)
            self.console.print(
                f"[{finished}/{len(self.plan)}] {outcome.state} {outcome.step}{took}{detail}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip

    def tick(self, running: Mapping[str, Trial]) -> None:
        """Redraw: totals with an estimate of the time left, and each running job's epochs."""
        if not self.console.is_terminal:
            return
        for name in [n for n in self.tasks if n not in running]:
            self.bars.remove_task(self.tasks.pop(name))
        drafts = self.store.running()
        for name, trial in running.items():
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(str(trial.step), total=None, note="")
            draft = drafts.get(name)
            epoch, epochs, note = last_epoch(draft.folder if draft else None)
            self.bars.update(self.tasks[name], completed=epoch, total=epochs, note=note)
        failed = self.counts["failed"] + self.counts["blocked"]
        note = f"{len(running)} running, {failed} failed or blocked{self._time_left(running)}"
        self.bars.update(self.total, completed=len(self.plan) - len(self.open), note=note)
        self.live.update(Group(self.bars), refresh=True)

    def _time_left(self, running: Mapping[str, Trial]) -> str:
        """From what jobs of the same kinds took; empty while that is not known of most of them."""
        known = sum(self.durations.is_measured(self.plan[key]) for key in self.open)
        if 2 * known <= len(self.open):
            return ""
        ran = {key: self.pool.now() - trial.start for key, trial in running.items()}
        waiting = [key for key in self.open if key not in ran]
        left = wall_time(self.plan, ran, waiting, self.pool.slots(), self.durations)
        return f", about {duration(left)} left"


def last_epoch(draft: Path | None) -> tuple[int, int | None, str]:
    """(epoch, epochs, text) of the last epoch that a running job logged; zeros when none yet."""
    for line in reversed(_tail(draft / "log.jsonl") if draft else []):
        try:
            entry = json.loads(line)
        except ValueError:  # being written
            continue
        if "epoch" in entry:
            loss = f"loss {entry['loss']:.3f}, " if "loss" in entry else ""
            text = loss + duration(entry["seconds"])
            return entry["epoch"], entry["epochs"], text
    return 0, None, ""


def _tail(file: Path) -> list[bytes]:
    """The last lines of a file that may be long; the first of them may be cut."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL))
            return stream.read().splitlines()
    except FileNotFoundError:
        return []


def overview(grid: Grid, store: Store) -> tuple[list[Table], bool]:
    """Tables attack x defense and, for what is not as it should be, why; and whether all is done.

    The first are one for each dataset, model and seed; the second names what runs where since
    when, what failed with which error, and what is blocked by what.
    """
    drafts = store.running()
    tables: dict[str, dict[str, dict[str, str]]] = {}
    details: list[tuple[str, str, str]] = []
    complete = True
    for job in grid.jobs():
        if isinstance(job, AssetJob):  # it has no cell of its own
            state, detail = _state(job, store, drafts)
            if detail:
                details.append((str(job), state, detail))
    for victim, defended in grid.cells():
        place = grid.place(victim, defended)
        state, detail = _state(defended or victim, store, drafts)
        complete &= state == "done"
        if detail:
            details.append((" / ".join(str(place[axis]) for axis in AXES), state, detail))
        title = f"{place['dataset']}, {place['model']}, seed {place['seed']}"
        tables.setdefault(title, {}).setdefault(place["attack"], {})[place["defense"]] = state
    shown = []
    for title, attacks in tables.items():
        columns = list(next(iter(attacks.values()), {NO_DEFENSE: ""}))
        table = Table("attack", *columns, title=title, title_justify="left")
        for attack, cells in attacks.items():
            table.add_row(attack, *(cells[column] for column in columns))
        shown.append(table)
    if details:
        table = Table("job", "state", "detail", title="details", title_justify="left")
        for detail_row in details:
            table.add_row(*map(escape, detail_row))
        shown.append(table)
    return shown, complete


def _state(job: Job, store: Store, drafts: Mapping[str, Draft]) -> tuple[str, str]:
    """A word or two for the job's cell, and what there is to say beyond them."""
    name = key(job)
    if name in store:
        return "done", ""
    if draft := drafts.get(name):
        epoch, epochs, _ = last_epoch(draft.folder)
        reached = f"epoch {epoch}/{epochs}" if epochs else "no epoch yet"
        detail = f"{draft.host}, process {draft.pid}, for {duration(time.time() - draft.since)}"
        if draft.stale:
            return "stale", f"{detail}, {reached}, silent for {duration(draft.idle)}"
        return f"running {epoch}/{epochs}" if epochs else "running", f"{detail}, {reached}"
    if failure := store.failure(name):
        return "failed", _why(failure)
    if culprit := _culprit(job, store):
        return "blocked", "by {}: {}".format(*culprit)
    return "missing", ""


def _culprit(job: Job, store: Store) -> tuple[Job, str] | None:
    """The failed job that this one waits for, directly or not, and why it failed."""
    for need in needs(job):
        if key(need) in store:
            continue
        if failure := store.failure(key(need)):
            return need, _why(failure)
        if culprit := _culprit(need, store):
            return culprit
    return None


def _why(failure: Mapping[str, str]) -> str:
    kind = failure.get("kind", "error")
    return failure["error"] if kind == "error" else f"{kind}: {failure['error']}"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
