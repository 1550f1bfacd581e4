"""The verb `report`: tables and figures from `rows.csv`, without torch."""

from __future__ import annotations

import argparse
from functools import partial

from sau_bench.benchmark.cli.cache import keys_of
from sau_bench.benchmark.cli.options import results_folder
from sau_bench.benchmark.cli.results import check_rows, write_report
from sau_bench.benchmark.standins import without_torch


def report(arguments: argparse.Namespace) -> int:
    """Write tables, figures and report.md anew; of several tables those that have rows."""
    from sau_bench.benchmark.grid.config import read_tables

    tables = read_tables(arguments.config)
    folders = {file: results_folder(arguments, file) for file in tables}
    there = [file for file in tables if (folders[file] / "rows.csv").exists()]
    for file in there or list(tables)[:1]:
        check_rows(folders[file], file, partial(without_torch, partial(keys_of, file)))
        write_report(folders[file], tables[file], file)
    return 0
