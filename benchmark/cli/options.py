"""Options that several verbs share, and the folders they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmark.errors import InputError


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


def check_folders(arguments: argparse.Namespace) -> None:
    """Check that results and cache can be folders, and do not write into one another.

    Raises:
        InputError: one is a file, or the config has the name of the cache.
    """
    results, cache = results_folder(arguments), cache_folder(arguments)
    for folder, flag in ((results, "--results"), (cache, "--cache")):
        there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), None)
        if there is not None and not there.is_dir():
            raise InputError(f"{flag}: {str(there)!r} is a file, accepted: a folder")
    first, second = results.resolve(), cache.resolve()
    if first == second or second in first.parents:
        raise InputError(
            f"the results of {arguments.config} would be written into the cache {str(cache)!r}: "
            "rename the config, or name another --results or --cache"
        )
