"""What a person sees of a running grid: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from sau_bench.benchmark.cache.step import Plan
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError, printable
from sau_bench.benchmark.rows import UNDEFENDED
from sau_bench.benchmark.run.driver import Outcome, Trial, last_lines
from sau_bench.benchmark.run.durations import Durations, wall_time
from sau_bench.benchmark.run.pool import Pool

if TYPE_CHECKING:
    from sau_bench.benchmark.grid.grid import Grid

WIDEST = 2_000
"""Characters of a line."""


class Progress:
    """Shows outcomes as they come and, on a terminal, what runs now and how long it may take.

    verdict: of a finished job by its key, a status of `benchmark.rows.STATUSES`.

    failed: why jobs failed, by key. counts: outcomes by state.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        pool: Pool,
        durations: Durations,
        verdict: Callable[[str], str] = lambda _: "ok",
    ) -> None:
        self.console = Console()
        self.plan, self.store, self.pool, self.durations = plan, store, pool, durations
        self.verdict = verdict
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
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
        if outcome.state == "failed":
            self.failed[outcome.step.key] = outcome.detail
        took = f" in {duration(outcome.seconds)}" if outcome.seconds else ""
        detail = f": {outcome.detail}" if outcome.detail else ""
        state: str = outcome.state
        if state == "done" and (verdict := self._verdict(outcome.step.key)) != "ok":
            state = f"done, {verdict}"
        if state != "cached":
            finished = len(self.plan) - len(self.open)
            self.console.print(
                printable(
                    f"[{finished}/{len(self.plan)}] {state} {outcome.step}{took}{detail}", WIDEST
                ),
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip

    def _verdict(self, key: str) -> str:
        try:
            return self.verdict(key)
        except (InputError, OSError, ValueError, KeyError, TypeError) as error:
            return f"but unreadable: {error}"  # the report will say what is wrong with the folder

    def tick(self, running: Mapping[str, Trial]) -> None:
        """Redraw: totals with an estimate of the time left, and each running job's epochs."""
        if not self.console.is_terminal:
            return
        for name in [n for n in self.tasks if n not in running]:
            self.bars.remove_task(self.tasks.pop(name))
        drafts = {draft.key: draft for draft in self.store.unfinished()}
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


def closing_line(progress: Progress, left: int, store: Store) -> str:
    """How many jobs have no result, why the first of them failed, and where its traceback is."""
    counts = {"failed": len(progress.failed), "blocked": progress.counts["blocked"]}
    parts = [f"{count} {word}" for word, count in (counts | {"left out": left}).items() if count]
    first, why = next(iter(progress.failed.items()))
    return (
        f"{sum(counts.values()) + left} of {len(progress.plan)} jobs have no result: "
        f"{', '.join(parts)}; the first, {progress.plan[first]}: {why}; its traceback: "
        f"{store.failures / f'{first}.json'}"
    )


def verdict_of(grids: Sequence[Grid], store: Store, key: str) -> str:
    """The status of the model that counts, of a finished job in the words of a row."""
    from sau_bench.benchmark.grid.grid import Grid

    for victim, place in (pair for grid in grids for pair in grid.places.items()):
        if victim.key == key and place.get("defense") == UNDEFENDED:
            # The grid judges a victim by its dataset.
            return str(Grid({victim: place}).rows(store)["status"].iloc[-1])
    rows = store.rows(key)
    if all(row.get("kind") == "candidates" for row in rows):  # bad ones among them are normal
        rows = sorted(rows, key=lambda row: row.get("status") == "ok")
    return str(rows[-1].get("status", "ok")) if rows else "ok"


def last_epoch(draft: Path | None) -> tuple[int, int | None, str]:
    """(epoch, epochs, text) of the last epoch that a running job logged; zeros when none yet."""
    for line in reversed(last_lines(draft / "log.jsonl") if draft else []):
        try:
            entry = json.loads(line)
            if "epoch" in entry:
                loss = f"loss {entry['loss']:.3f}, " if "loss" in entry else ""
                text = loss + duration(entry["seconds"])
                return int(entry["epoch"]), int(entry["epochs"]), text
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue  # being written, or a plugin's log of something else
    return 0, None, ""


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
