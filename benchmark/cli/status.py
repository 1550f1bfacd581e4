"""The verb `status`: what is done, running, failed and missing; without torch."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_bench.benchmark.cache.claims import LEASE, Claims
from sau_bench.benchmark.cache.clean import check_files
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Draft, Store
from sau_bench.benchmark.cli.options import cache_folder, check_folders
from sau_bench.benchmark.cli.texts import changed_texts
from sau_bench.benchmark.rows import AXES, UNDEFENDED
from sau_bench.benchmark.run.failures import recorded
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from rich.table import Table

    from sau_bench.benchmark.grid.grid import Grid

INCOMPLETE = 1


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: its label on each axis, the key of its job, and the config of the grid."""

    place: Mapping[str, Any]
    key: str
    file: Path


def status(arguments: argparse.Namespace) -> int:
    """Print the state of every cell; 0 if all are done."""
    from rich.console import Console

    cells, plan = without_torch(lambda: _read(arguments))
    check_folders(arguments, {cell.file for cell in cells})
    store = Store(cache_folder(arguments))
    check_files(store)
    tables, complete = overview(cells, plan, store, Claims(store.root))
    # Into a file or a pipe, a table keeps its words whole.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(*tables, sep="\n")
    for line in changed_texts(plan, store):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0 if complete else INCOMPLETE


def cells_of(grid: Grid, file: Path) -> list[Cell]:
    """The cells of a grid, in its order. file: its config."""
    return [Cell(grid.place(v, d), (d or v).key, file) for v, d in grid.cells()]


def overview(
    cells: Sequence[Cell], plan: Plan, store: Store, claims: Claims
) -> tuple[list[Table], bool]:
    """Tables attack x defense and, for what is not as it should be, why; and whether all is done.

    The first are one for each dataset, model and seed; the second names what runs where since
    when, what failed with which error, and what is blocked by what.
    """
    from rich.markup import escape
    from rich.table import Table

    view = _View(plan, store, claims, {draft.key: draft for draft in store.unfinished()})
    tables: dict[str, dict[str, dict[str, str]]] = {}
    details: list[tuple[str, str, str]] = []
    complete, several = True, len({cell.file for cell in cells}) > 1
    in_cells = {cell.key for cell in cells}
    for step in plan.values():
        if step.key not in in_cells:  # what an attack needs has no cell
            state, detail = view.state(step)
            if detail:
                details.append((str(step), state, detail))
    for cell in cells:
        place = cell.place
        state, detail = view.state(plan[cell.key])
        complete &= state == "done"
        if detail:
            details.append((" / ".join(str(place[axis]) for axis in AXES), state, detail))
        title = f"{place['dataset']}, {place['model']}, seed {place['seed']}"
        title = f"{cell.file.stem}: {title}" if several else title
        tables.setdefault(title, {}).setdefault(place["attack"], {})[place["defense"]] = state
    shown = []
    for title, attacks in tables.items():
        columns = list(next(iter(attacks.values()), {UNDEFENDED: ""}))
        table = Table("attack", *columns, title=title, title_justify="left")
        for attack, states in attacks.items():
            table.add_row(attack, *(states[column] for column in columns))
        shown.append(table)
    if details:
        table = Table("job", "state", "detail", title="details", title_justify="left")
        for line in details:
            table.add_row(*map(escape, line))
        shown.append(table)
    return shown, complete


@dataclass(frozen=True)
class _View:
    """A cache as it is looked at once."""

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
