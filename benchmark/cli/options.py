"""Options that several verbs share, and the folders they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_config(parser: argparse.ArgumentParser, *, cache: bool) -> None:
    """The config and where its results are; `cache`: where its jobs are, and a part of them."""
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--results", type=Path, default=Path("results"), help="output folder")
    if cache:
        parser.add_argument("--cache", type=Path, help="job folders (default: RESULTS/cache)")
        parser.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="AXIS=NAME,...",
            help="a part of the grid, such as attack=badnets,defense=sau; may be repeated",
        )


def add_data(parser: argparse.ArgumentParser) -> None:
    text = "folder of the datasets (default: $SAU_BENCH_DATA, the config's data, or ./data)"
    parser.add_argument("--data", type=Path, help=text)


def data_folder(arguments: argparse.Namespace, otherwise: str) -> Path:
    """The folder of the datasets: from the flag, the environment, or the config."""
    return Path(arguments.data or os.environ.get("SAU_BENCH_DATA") or otherwise)


def results_folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.results, arguments.config.stem)


def cache_folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.cache or arguments.results / "cache")
