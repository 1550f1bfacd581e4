"""The verb `report`: tables and figures from `rows.csv`, without torch."""

from __future__ import annotations

import argparse
from functools import partial

from benchmark.cli.cache import keys_of
from benchmark.cli.options import results_folder
from benchmark.cli.results import check_rows, write_report
from benchmark.standins import without_torch


def report(arguments: argparse.Namespace) -> int:
    """Write tables, figures and report.md anew."""
    from benchmark.grid.config import read

    config, folder = read(arguments.config), results_folder(arguments)
    keys = partial(without_torch, partial(keys_of, arguments.config))
    check_rows(folder, arguments.config, keys)
    write_report(folder, config, arguments.config)
    return 0
