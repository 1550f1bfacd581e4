"""The verb `report`: tables and figures from `rows.csv`, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli.options import results_folder

if TYPE_CHECKING:
    from benchmark.grid.config import Config


def report(arguments: argparse.Namespace) -> int:
    """Write tables, figures and report.md anew."""
    from benchmark.grid.config import read

    write_report(results_folder(arguments), read(arguments.config))
    return 0


def write_report(folder: Path, config: Config) -> None:
    """Write the report of `folder/rows.csv` and say where it is."""
    from benchmark.report.write import report

    files = report(folder, config.select, config.effective_acc, config.average_collapsed)
    print(f"{folder / 'report.md'} and {len(files) - 1} tables and figures beside it")
