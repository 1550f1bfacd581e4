"""The verb `leaderboard`: rows of several result folders or people on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from sau_bench.benchmark.cli.origins import config_of
from sau_bench.benchmark.cli.parts import rows_in, settings_in, source_names
from sau_bench.benchmark.cli.reports import grids_of


def add_leaderboard(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="FOLDER_OR_ROWS", help="with rows, or rows.csv"
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        type=Path,
        help="of rows whose folder has no config of its name in configs/; may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/leaderboard"),
        help="output folder (default: results/leaderboard)",
    )


def leaderboard(arguments: argparse.Namespace) -> int:
    """Write leaderboard.html, leaderboard.md and leaderboard.csv.

    What a job was is read from configs; rows of unknown jobs are compared where they share a key.
    """
    from sau_bench.benchmark.grid.config import read
    from sau_bench.benchmark.report.leaderboard import leaderboard as write

    names = source_names(arguments.places)
    for place in arguments.places:
        rows_in(place)  # refuses in one line what is no table of rows
    files = {name: place / "rows.csv" if place.is_dir() else place for name, place in names.items()}
    configs = {name: config_of(file.parent) for name, file in files.items()}
    rules = {
        name: grids_of(read(config), [config])[0] for name, config in configs.items() if config
    }
    known = [*arguments.config, *filter(None, configs.values())]
    written = write(files, settings_in(list(dict.fromkeys(known))), rules, arguments.output)
    print(", ".join(map(str, written)))
    return 0
