"""Reports of a part of a grid, or of the rows of several folders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.origins import config_of
from sau_bench.benchmark.cli.reports import grids_of, source_of
from sau_bench.benchmark.cli.results import read_text
from sau_bench.benchmark.errors import InputError, shown
from sau_bench.benchmark.rows import AXES, UNDEFENDED
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    import pandas as pd

    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.report.merge import Setting

PART = "part"
"""The folder, inside that of the results, of a report that is not of all and only its rows."""


def part_report(
    folder: Path,
    config: Config,
    file: Path,
    arguments: argparse.Namespace,
    metrics: Sequence[str],
) -> None:
    """Write the rows that the options of `report` ask for, and their report, into a folder.

    folder: of the results. file: of the config. metrics: that are shown.
    """
    from sau_bench.benchmark.report.write import report

    rows = rows_in(folder)
    others = list(dict.fromkeys(arguments.merge))
    files = [file, *(found for other in others if (found := config_of(other)))]
    if others:
        rows = _with(folder, rows, others, files)
    if arguments.only:
        rows = _only(rows, arguments.only, file)
    part = folder / PART
    part.mkdir(exist_ok=True)
    rows.to_csv(part / "rows.csv", index=False)
    options = [f"--only={text}" for text in arguments.only]
    options += [f"--merge={other}" for other in others]
    options += [f"--columns={arguments.columns}"] if arguments.columns else []
    title = f"{folder.name}: {' '.join(options)}"
    source = source_of(part, file, title, options)
    rules, known = grids_of(config, list(dict.fromkeys(files)))
    averaged = config.average_collapsed
    written = report(part, rules, config.effective_acc, averaged, known, source, metrics)
    print(f"{part / 'report.html'}, report.md and {len(written) - 2} tables and figures beside it")


def rows_in(place: Path) -> pd.DataFrame:
    """The rows of a results folder, or of a file such as `rows.csv`, all text.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    file = place / "rows.csv" if place.is_dir() else place
    rows = read_text(file)
    if rows is None:
        raise InputError(f"{place} has no rows; accepted: a results folder, or its rows.csv")
    return rows


def settings_in(files: Sequence[Path]) -> dict[str, Setting]:
    """What the jobs of configs are, by key."""
    from sau_bench.benchmark.report.merge import Setting

    def read() -> dict[str, Setting]:
        from sau_bench.benchmark.grid.grid import jobs_of, make_tables
        from sau_bench.benchmark.grid.settings import settings_of

        tables = [table for file in files for table in make_tables(file)]
        jobs = jobs_of(table.grid for table in tables)
        return {key: Setting(*fields) for key, fields in settings_of(jobs).items()}

    return without_torch(read) if files else {}


def source_names(places: Sequence[Path]) -> dict[str, Path]:
    """Short names of results folders, as many parts of each path as tell them apart.

    Raises:
        InputError: two are the same folder.
    """
    folders = [(p if p.is_dir() else p.parent).resolve().parts for p in places]
    names: dict[str, Path] = {}
    for place, parts in zip(places, folders, strict=True):
        lengths = range(1, len(parts) + 1)
        tails = ("/".join(parts[-n:]) for n in lengths)
        counts = (
            (name, sum("/".join(o[-len(name.split("/")) :]) == name for o in folders))
            for name in tails
        )
        name = next((name for name, count in counts if count == 1), "")
        if not name:
            raise InputError(f"{place} is named twice")
        names[name] = place
    return names


def _with(
    folder: Path, rows: pd.DataFrame, others: Sequence[Path], files: Sequence[Path]
) -> pd.DataFrame:
    """The rows of a folder and those of others; what these disagree about is printed and kept."""
    from sau_bench.benchmark.report.merge import merged

    names = source_names([folder, *others])
    parts = {name: rows if place == folder else rows_in(place) for name, place in names.items()}
    joined, conflicts = merged(parts, settings_in(files))
    for conflict in conflicts:
        print(f"note: {conflict.text}")
        if len(conflict.rows):
            same = joined["key"] == conflict.rows["key"].iloc[0]
            texts = joined.loc[same, "warning"].str.cat([conflict.text] * int(same.sum()), sep="; ")
            joined.loc[same, "warning"] = texts.str.removeprefix("; ")
    return joined.drop(columns="source").fillna("")


def _only(rows: pd.DataFrame, only: Sequence[str], file: Path) -> pd.DataFrame:
    """The rows of the cells that texts such as "attack=lf,defense=sau" name.

    A name is that of a plugin in the config, or a label; the victims of what is kept stay.
    """
    from sau_bench.benchmark.grid.labels import check_names, filters_of

    filters = filters_of(only)
    names = without_torch(lambda: _names(file))
    own = {
        axis: [
            {label} | names.get(key, {}).get(axis, set())
            for label, key in zip(rows[axis], rows["key"], strict=True)
        ]
        for axis in AXES
    }
    check_names(filters, {axis: set().union(*own[axis]) for axis in AXES}, "--only")
    for axis, wanted in filters.items():
        victims = {UNDEFENDED} if axis == "defense" else set()
        rows = rows[[bool(own[axis][place] & (wanted | victims)) for place in rows.index]]
    if rows.empty:
        raise InputError(f"--only: no row is of {shown(', '.join(only), 200)}; accepted: any cell")
    return rows


def _names(file: Path) -> Mapping[str, Mapping[str, set[str]]]:
    """What the jobs of a config may be called, by key and axis."""
    from sau_bench.benchmark.grid.config import read_tables
    from sau_bench.benchmark.grid.grid import make_grid, names_of

    grid = make_grid(read_tables(file)[file])
    return {job.key: names_of(job, place) for job, place in grid.places.items()}
