"""What part of a config a run is about, and what `run` does where all of that is cached."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.options import results_folder, seconds
from sau_bench.benchmark.cli.results import (
    Contents,
    check_rows,
    claim_rows,
    contents_of,
    write_rows,
)
from sau_bench.benchmark.cli.texts import changed_texts

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.step import Plan
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.grid.grid import Grid, Table


@dataclass(frozen=True)
class Finished:
    """A config, or a part of one, whose jobs are all cached: plain values, see `without_torch`.

    plan: without what workers run. keys, contents: of the whole of each table of which a cell is in
    that part, by the file of the table.
    """

    plan: Plan
    keys: dict[Path, set[str]]
    contents: dict[Path, Contents]


def finished(arguments: argparse.Namespace, store: Store) -> Finished | None:
    """What is known of a config whose part is all in the cache; None if anything is to run."""
    from sau_bench.benchmark.grid.grid import jobs_of
    from sau_bench.benchmark.grid.plan import make_plan

    tables, chosen, _ = selected(arguments)
    plan = make_plan(jobs_of(chosen))
    if any(key not in store for key in plan):
        return None
    plan = {key: replace(step, job=None) for key, step in plan.items()}
    written = [table for table, part in zip(tables, chosen, strict=True) if part.places]
    return Finished(
        plan,
        {table.file: keys_of(table.grid) for table in written},
        {table.file: contents_of(table.grid, store) for table in written},
    )


def write_finished(
    arguments: argparse.Namespace, configs: Mapping[Path, Config], store: Store, known: Finished
) -> int:
    """What `run` does where nothing is to run, for which it needs neither devices nor torch."""
    from sau_bench.benchmark.cache.claims import Claims
    from sau_bench.benchmark.cache.clean import sweep

    plan, folders = known.plan, {file: results_folder(arguments, file) for file in known.contents}
    for text, flag in ((arguments.budget, "--budget"), (arguments.time_limit, "--time-limit")):
        if text:
            seconds(text, flag)
    for file, folder in folders.items():
        check_rows(folder, file, partial(known.keys.__getitem__, file))
    if arguments.dry_run:
        print(f"{len(plan)} jobs: 0 to run, {len(plan)} cached")
        return 0
    for file, folder in folders.items():
        claim_rows(folder, file)
    with Claims(store.root) as claims:
        sweep(store, claims)
    for line in changed_texts(plan, store):
        print(line)
    for file, folder in folders.items():
        write_rows(known.contents[file], folder, configs[file], file)
    print(f"nothing ran: {len(plan)} of {len(plan)} jobs are cached")
    return 0


def selected(arguments: argparse.Namespace) -> tuple[list[Table], list[Grid], list[Grid]]:
    """The tables of the config, and of each what `--only` and what `--force` keeps.

    Of both the victims alone with `--victims`.
    """
    from sau_bench.benchmark.grid.grid import filtered, make_tables
    from sau_bench.benchmark.grid.smoke import shrunk

    tables = make_tables(arguments.config)
    grids = [table.grid for table in tables]
    chosen, forced = filtered(grids, arguments.only), filtered(grids, arguments.force, "--force")
    if arguments.victims:
        chosen, forced = list(map(_victims, chosen)), list(map(_victims, forced))
    if arguments.smoke:  # after the names of what is made small have chosen it
        tables = [replace(table, grid=shrunk(table.grid)) for table in tables]
        chosen, forced = list(map(shrunk, chosen)), list(map(shrunk, forced))
    return tables, chosen, forced


def _victims(grid: Grid) -> Grid:
    from sau_bench.benchmark.grid.grid import Grid

    return Grid({victim: grid.places[victim] for victim in grid.victims})


def discarded(grids: Sequence[Grid], force: Sequence[str]) -> set[str]:
    """Keys of the jobs that `--force` names: whole cells, or of them the defenses only.

    A forced victim is made from a new asset, too. grids: what `force` keeps of those that run.
    """
    from sau_bench.benchmark.grid.labels import filters_of

    if not force:
        return set()
    cells = [cell for grid in grids for cell in grid.cells()]
    keys = {defended.key for _, defended in cells if defended}
    if "defense" not in filters_of(force):
        keys |= {victim.key for victim, _ in cells}
        keys |= {victim.asset.key for victim, _ in cells if victim.asset}
    return keys


def keys_of(grid: Grid) -> set[str]:
    """Keys of all jobs of a grid."""
    return {job.key for job in grid.jobs()}
