"""The verb `report`: tables, figures and pages from `rows.csv`, without torch."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from sau_bench.benchmark.cli.cache import keys_of
from sau_bench.benchmark.cli.options import add_only, results_folder
from sau_bench.benchmark.cli.parts import part_report
from sau_bench.benchmark.cli.reports import write_report
from sau_bench.benchmark.cli.results import check_rows
from sau_bench.benchmark.errors import InputError, nearest, shown
from sau_bench.benchmark.standins import without_torch


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what is in a report."""
    add_only(parser)
    parser.add_argument(
        "--merge",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="with the rows of another results folder; may be repeated",
    )
    parser.add_argument(
        "--columns",
        metavar="METRIC,...",
        help="the metrics to show, such as acc,der (default: all)",
    )


def report(arguments: argparse.Namespace) -> int:
    """Write tables, figures and reports anew; of several tables those that have rows.

    With an option the report is another one, which lies in a folder `part` of its own.
    """
    from sau_bench.benchmark.grid.config import read_tables

    metrics = _metrics(arguments.columns)
    tables = read_tables(arguments.config)
    folders = {file: results_folder(arguments, file) for file in tables}
    there = [file for file in tables if (folders[file] / "rows.csv").exists()] or [*tables][:1]
    if arguments.merge and len(there) > 1:
        raise InputError(f"--merge: {arguments.config} has {len(there)} tables, accepted: one")
    for file in there:
        check_rows(folders[file], file, partial(without_torch, partial(keys_of, file)))
        if arguments.only or arguments.merge or arguments.columns:
            part_report(folders[file], tables[file], file, arguments, metrics)
        else:
            write_report(folders[file], tables[file], file)
    return 0


def _metrics(text: str | None) -> list[str]:
    """The metrics that a text such as "acc,der" names, in the order of tables; all without one."""
    from sau_bench.benchmark.report.render import METRICS

    if text is None:
        return [*METRICS]
    named = [name.strip().lower().replace("-", "") for name in text.split(",")]
    for name in named:
        if name not in METRICS:
            raise InputError(
                f"--columns: {shown(name)} is no metric; accepted: {', '.join(METRICS)}"
                f"{nearest(name, METRICS)}"
            )
    return [name for name in METRICS if name in named]
