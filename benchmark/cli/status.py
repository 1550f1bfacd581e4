"""The verb `status`: what is done, running, failed and missing, and how long; without torch."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_bench.benchmark.cache.claims import LEASE, Claims
from sau_bench.benchmark.cache.clean import check_files
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Draft, Store
from sau_bench.benchmark.cli.matrix import Matrix
from sau_bench.benchmark.cli.options import cache_folder, check_folders
from sau_bench.benchmark.cli.texts import changed_texts
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.rows import AXES
from sau_bench.benchmark.run.failures import recorded
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.grid.grid import Grid

INCOMPLETE = 1
STATES = ("running", "stale", "failed", "blocked", "missing")
"""States of jobs that are not done, in the order of the last line."""


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: its label on each axis, the key of its job, and the config of the grid."""

    place: Mapping[str, Any]
    key: str
    file: Path


def status(arguments: argparse.Namespace) -> int:
    """Print the state of every cell; 0 if all are done."""
    from rich.console import Console
    from rich.text import Text

    cells, plan = without_torch(lambda: _read(arguments))
    check_folders(arguments, {cell.file for cell in cells})
    store = Store(cache_folder(arguments))
    check_files(store)
    view = view_of(plan, store, Claims(store.root))
    console = Console()
    for matrix in matrices(cells, view):
        for title, table in matrix.tables(console.width):
            console.print(Text(title, style="italic"), table, sep="\n")
    for line in (*details(cells, view), summary(view), *changed_texts(plan, store)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0 if all(view.states[cell.key][0] == "done" for cell in cells) else INCOMPLETE


def cells_of(grid: Grid, file: Path) -> list[Cell]:
    """The cells of a grid, in its order. file: its config."""
    return [Cell(grid.place(v, d), (d or v).key, file) for v, d in grid.cells()]


def matrices(cells: Sequence[Cell], view: View) -> list[Matrix]:
    """The states of cells, one table for each dataset, model and seed of a config."""
    several = len({cell.file for cell in cells}) > 1
    made: dict[str, Matrix] = {}
    for cell in cells:
        place = cell.place
        title = f"{place['dataset']}, {place['model']}, seed {place['seed']}"
        title = f"{cell.file.stem}: {title}" if several else title
        states = made.setdefault(title, Matrix(title, {})).states
        states.setdefault(place["attack"], {})[place["defense"]] = view.states[cell.key][0]
    return list(made.values())


def details(cells: Sequence[Cell], view: View) -> list[str]:
    """Two lines for each job that is not as it should be: its state, and under it why.

    What runs where since when, what failed with which error, what is blocked by what.
    """
    places: dict[str, list[str]] = {}
    for cell in cells:
        name = " / ".join(str(cell.place[axis]) for axis in AXES)
        places.setdefault(cell.key, []).append(name)
    # What an attack needs has no cell.
    return [
        f"{state}: {name}\n    {detail}"
        for key, (state, detail) in view.states.items()
        for name in places.get(key, [str(view.plan[key])])
        if detail
    ]


def summary(view: View) -> str:
    """How many jobs are done, and the states of the others; how long those may take."""
    from sau_bench.benchmark.cli.progress import duration

    counts = Counter(state.partition(" ")[0] for state, _ in view.states.values())
    others = "".join(f", {counts[s]} {s}" for s in STATES if counts[s])
    text = f"{counts['done']} of {len(view.plan)} jobs done{others}"
    if (left := view.seconds_left()) is not None:
        text += f"; about {duration(left)} left"
    return text


def view_of(plan: Plan, store: Store, claims: Claims) -> View:
    """What a cache holds of a plan now."""
    look = _Look(plan, store, claims, {draft.key: draft for draft in store.unfinished()})
    return View(plan, store, {key: look.state(step) for key, step in plan.items()}, look.drafts)


@dataclass(frozen=True)
class View:
    """A cache as it was looked at once. states: of each job by key, and what there is to say."""

    plan: Plan
    store: Store
    states: Mapping[str, tuple[str, str]]
    drafts: Mapping[str, Draft]

    def seconds_left(self) -> float | None:
        """From what finished jobs took, on as many slots as run now; None where that is not known.

        Jobs that failed, and those that wait for them, are left out, as a run does.
        """
        from sau_bench.benchmark.run.durations import learned, wall_time

        left = [k for k, (s, _) in self.states.items() if s not in ("done", "failed", "blocked")]
        durations = learned(self.store, self._device())
        known = sum(durations.is_measured(self.plan[key]) for key in left)
        if not left or 2 * known <= len(left):
            return None
        now = time.time()
        ran = {
            key: max(0.0, now - self.drafts[key].times()[0])
            for key in left
            if self.states[key][0].startswith("running") and key in self.drafts
        }
        waiting = [key for key in left if key not in ran]
        return wall_time(self.plan, ran, waiting, max(1, len(ran)), durations)

    def _device(self) -> str:
        """Of the job that was finished last."""
        done = [key for key, (state, _) in self.states.items() if state == "done"]
        try:
            last = max(done, key=lambda key: (self.store.root / key).stat().st_mtime)
            return str(self.store.rows(last)[0]["device"])
        except (ValueError, OSError, InputError, LookupError):  # nothing yet, or it is damaged
            return ""


@dataclass(frozen=True)
class _Look:
    plan: Plan
    store: Store
    claims: Claims
    drafts: Mapping[str, Draft]

    def state(self, step: Step) -> tuple[str, str]:
        """A word or two for the cell of a job, and what there is to say beyond them."""
        if step.key in self.store:
            return "done", ""
        if self.claims.is_live(step.key):
            return self._running(step.key)
        if failure := recorded(self.store, step.key):
            return "failed", _why(failure)
        if culprit := self._culprit(step):
            return "blocked", "by {}: {}".format(*culprit)
        return "missing", ""

    def _running(self, key: str) -> tuple[str, str]:
        from sau_bench.benchmark.cli.progress import duration, last_epoch

        draft, owner = self.drafts.get(key), self.claims.owner(key)
        if draft is None:
            return "running", f"{owner}, about to start"
        epoch, epochs, _ = last_epoch(draft.folder)
        reached = f"epoch {epoch}/{epochs}" if epochs else "no epoch yet"
        detail = f"{owner}, for {duration(time.time() - draft.times()[0])}, {reached}"
        if (idle := self.claims.idle(key)) > LEASE:
            return "stale", f"{detail}, silent for {duration(idle)}"
        return f"running {epoch}/{epochs}" if epochs else "running", detail

    def _culprit(self, step: Step) -> tuple[Step, str] | None:
        """The failed job that this one waits for, directly or not, and why it failed."""
        for key in step.needs:
            if key in self.store:
                continue
            if failure := recorded(self.store, key):
                return self.plan[key], _why(failure)
            if culprit := self._culprit(self.plan[key]):
                return culprit
        return None


def _read(arguments: argparse.Namespace) -> tuple[list[Cell], Plan]:
    from sau_bench.benchmark.grid.grid import filtered, jobs_of, make_tables
    from sau_bench.benchmark.grid.plan import make_plan

    tables = make_tables(arguments.config)
    grids = filtered([table.grid for table in tables], arguments.only)
    plan = {key: replace(step, job=None) for key, step in make_plan(jobs_of(grids)).items()}
    files = (table.file for table in tables)
    return [cell for pair in zip(grids, files, strict=True) for cell in cells_of(*pair)], plan


def _why(failure: Mapping[str, str]) -> str:
    kind = failure.get("kind", "error")
    return failure["error"] if kind == "error" else f"{kind}: {failure['error']}"
