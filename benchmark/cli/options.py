"""Options that several verbs share, and the folders they name."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path

from sau_bench.benchmark.errors import InputError, nearest, printable
from sau_bench.benchmark.shipped import command, find_config

UNITS = {"h": 3600, "m": 60, "s": 1}
LONGEST = 10 * 365 * 24 * 3600
"""Seconds of a duration on the command line."""
KINDS = ("attacks", "defenses", "datasets", "models")


def kind_of(text: str) -> str:
    """The kind of plugins, such as "attacks", that an argument names in singular or plural."""
    kinds = {name: kind for kind in KINDS for name in (kind[:-1], kind)}
    if text not in kinds:
        accepted = ", ".join(kind[:-1] for kind in KINDS)
        raise argparse.ArgumentTypeError(
            f"{printable(text, 40)!r}, accepted: {accepted}, or {', '.join(KINDS)}"
            f"{nearest(text, kinds)}"
        )
    return kinds[text]


def seconds(text: str, flag: str) -> float:
    """Seconds of "90s", "30m", "2h" or "1h30m".

    Raises:
        InputError: anything else, and zero.
    """
    numbers = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text.strip())
    total = sum(
        int(number) * unit
        for number, unit in zip(
            numbers.groups("0") if numbers else (), UNITS.values(), strict=False
        )
    )
    if not 0 < total <= LONGEST:
        raise InputError(
            f"{flag} is {printable(text, 40)!r}, accepted: such as 90s, 30m, 2h or 1h30m, at most "
            f"{LONGEST // 3600}h"
        )
    return float(total)


def example_of(arguments: str) -> str:
    """The last line of the help of a verb."""
    return f"example: {command()} {arguments}"


def add_config(parser: argparse.ArgumentParser, *, cache: bool, only: bool = True) -> None:
    """The config and where its results are; `cache`: where its jobs are; `only`: a part of them."""
    what = "a YAML file, or the name of a config that is shipped"
    if only:
        parser.add_argument(
            "config",
            nargs="?",
            type=find_config,
            default="quickstart",
            help=f"{what} (default: quickstart)",
        )
    else:  # other arguments follow
        parser.add_argument("config", type=find_config, help=what)
    parser.add_argument("--results", type=Path, default=Path("results"), help="output folder")
    if cache:
        parser.add_argument("--cache", type=Path, help="job folders (default: RESULTS/cache)")
    if cache and only:
        add_only(parser)


def add_only(parser: argparse.ArgumentParser) -> None:
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


def results_folder(arguments: argparse.Namespace, config: Path) -> Path:
    """Where the rows of a config lie: its place below the last folder `configs`, or its name."""
    *folders, _ = config.resolve().parts
    below = folders[len(folders) - folders[::-1].index("configs") :] if "configs" in folders else ()
    return Path(arguments.results, *below, config.stem)


def cache_folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.cache or arguments.results / "cache")


def check_folders(arguments: argparse.Namespace, configs: Iterable[Path]) -> None:
    """Check that results and cache can be folders, and do not write into one another.

    configs: those whose results are written.

    Raises:
        InputError: one is a file, a config has the name of the cache, or two have one name.
    """
    cache = cache_folder(arguments)
    taken: dict[Path, Path] = {}
    for config in configs:
        results = results_folder(arguments, config)
        _check_folder(results, "--results")
        _check_folder(cache, "--cache")
        first, second = results.resolve(), cache.resolve()
        if first == second or second in first.parents:
            raise InputError(
                f"the results of {config} would be written into the cache {str(cache)!r}: "
                "rename the config, or name another --results or --cache"
            )
        if (other := taken.setdefault(results, config)) != config:
            raise InputError(
                f"{other} and {config} would write into one folder, {results}: rename one of them"
            )


def _check_folder(folder: Path, flag: str) -> None:
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{flag}: {str(there)!r} is a file, accepted: a folder")
