"""The verb `cache` of the command line: `cache ls|verify|gc`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sau_bench.benchmark.cache.checksums import faults
from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import delete, jobs, open_cache, titles, unused
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.options import example_of
from sau_bench.benchmark.cli.origins import results_of
from sau_bench.benchmark.errors import InputError, listed, shown
from sau_bench.benchmark.shipped import command, find_config, shipped_configs
from sau_bench.benchmark.standins import without_torch

BAD = 1
LISTED = 300
"""Characters of a list of configs."""


def add_cache(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add the verb with its actions."""
    text = "list the job folders, compare them with their checksums, delete unused ones"
    example = example_of("cache gc configs/cifar10_cpu.yaml --delete")
    actions = verbs.add_parser("cache", help=text, description=text, epilog=example).add_subparsers(
        required=True, metavar="ACTION"
    )

    def action(
        name: str, function: Callable[[argparse.Namespace], int], text: str, *, configs: bool
    ) -> argparse.ArgumentParser:
        example = example_of(f"cache {name}" + " configs/cifar10_cpu.yaml" * configs)
        sub: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=text, epilog=example
        )
        sub.set_defaults(verb=function)
        if configs:
            sub.add_argument(
                "configs",
                nargs="*",
                type=_named,
                metavar="CONFIG",
                help="what counts as used: a config, or a folder of configs (default: configs/ and "
                "what is shipped)",
            )
        sub.add_argument("--cache", type=Path, default=Path("results/cache"), help="job folders")
        return sub

    action(
        "ls", _ls, "what each folder is, its size, its age and which configs use it", configs=True
    )
    action("verify", _verify, "find folders that are incomplete or altered", configs=False)
    gc = action("gc", _gc, "what no config uses: jobs, failures, dead drafts", configs=True)
    gc.add_argument(
        "--delete",
        action="store_true",
        help="delete it, rather than list it; CONFIG has to be named",
    )


def references(configs: Sequence[Path]) -> dict[str, list[str]]:
    """Names of the configs that need each job, by key: jobs of its grid and what those need.

    Raises:
        InputError: one cannot be read or built.
    """
    users: dict[str, list[str]] = defaultdict(list)
    for config in dict.fromkeys(configs):
        for key in without_torch(partial(keys_of, config)):
            users[key].append(config.stem)
    return dict(users)


def keys_of(config: Path) -> list[str]:
    """Keys of all jobs of a config; none if it has no table, only defaults of others."""
    from sau_bench.benchmark.grid.config import read_tables
    from sau_bench.benchmark.grid.grid import make_grid

    grids = map(make_grid, read_tables(config).values())
    return list(dict.fromkeys(job.key for grid in grids for job in grid.jobs()))


def _ls(arguments: argparse.Namespace) -> int:
    store = open_cache(arguments.cache)
    configs = _configs(arguments)
    users = references(configs)
    entries = list(jobs(store))
    lines = sorted(
        (
            title,
            entry.key,
            _size(entry.size),
            _date(entry.time),
            ",".join(users.get(entry.key, ["-"])),
        )
        for entry, title in zip(entries, titles(entries), strict=True)
    )
    _print_table(
        ("KEY", "SIZE", "DATE", "USED BY", "JOB"),
        [(key, size, date, used, title) for title, key, size, date, used in lines],
    )
    spare = [entry for entry in entries if entry.key not in users]
    drafts, failures = len(store.unfinished()), len(list(store.failures.glob("*.json")))
    print(
        f"{len(entries)} jobs, {_size(sum(e.size for e in entries))}; "
        f"{drafts} unfinished, {failures} recorded failures"
    )
    total = f"{len(spare)} of them, {_size(sum(e.size for e in spare))}"
    print(f"{total}, used by none of {_names(arguments)}")
    _print_others(store, configs)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    store = open_cache(arguments.cache)
    keys, bad = store.keys(), 0
    console = Console(stderr=True)
    for key in track(
        keys, "verifying", console=console, transient=True, disable=not console.is_terminal
    ):
        wrong = faults(store.root / key)
        if wrong:
            bad += 1
            print(f"{store.root / key}: {'; '.join(wrong)}")
    print(f"{len(keys)} jobs: {bad} bad, {len(keys) - bad} sound")
    if bad:
        print("remove the bad folders and run again: what is missing is made anew", file=sys.stderr)
    return BAD if bad else 0


def _gc(arguments: argparse.Namespace) -> int:
    store = open_cache(arguments.cache)
    if arguments.delete and not arguments.configs:
        raise InputError(
            "--delete: name all configs whose jobs are to stay, or folders of configs, such as: "
            f"{command()} cache gc configs mine.yaml --delete"
        )
    claims = Claims(store.root)
    configs = _configs(arguments)
    needed = references(configs)
    running = {key: key for key in claims.live()}
    running |= {key: name for name, keys in claims.announced().items() for key in keys}
    used = [key for key in running if key not in needed]
    if arguments.delete and used:
        raise InputError(
            f"a grid runs that needs more than {_names(arguments)}: name its config as well, or "
            f"wait: {used[0]} in {claims.owner(running[used[0]])}"
        )
    entries = unused(store, claims, needed)
    lines = []
    for entry, title in zip(entries, titles(entries), strict=True):
        if arguments.delete:
            delete(store, entry)
        lines.append((entry.kind, entry.key, _size(entry.size), _date(entry.time), title))
    _print_table(("KIND", "KEY", "SIZE", "DATE", "JOB"), lines)
    total = f"{len(entries)} unused by {_names(arguments)}, {_size(sum(e.size for e in entries))}"
    print(f"{total}: {'deleted' if arguments.delete else 'not deleted; --delete deletes them'}")
    _print_others(store, configs)
    return 0


def _named(text: str) -> list[Path]:
    """The config of a path or name, or all configs of a folder.

    Raises:
        InputError: no such config, or a folder without any.
    """
    if not os.path.isdir(text):
        return [find_config(text)]
    found = _in_folder(Path(text))
    if not found:
        raise InputError(f"no config in {shown(text, 200)}, accepted: a folder of .yaml files")
    return found


def _in_folder(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix in (".yaml", ".yml"))


def _configs(arguments: argparse.Namespace) -> list[Path]:
    """Those that count, each once."""
    named = list(chain.from_iterable(arguments.configs))
    counted = named or [*_in_folder(Path("configs")), *shipped_configs()]
    return list({file.resolve(): file for file in counted}.values())


def _names(arguments: argparse.Namespace) -> str:
    if not arguments.configs:
        return "the configs in configs/ and those that are shipped"
    named = chain.from_iterable(arguments.configs)
    return listed(map(str, named), LISTED)


def _print_others(store: Store, configs: Sequence[Path]) -> None:
    """Name results beside the cache whose config does not count: it may have been forgotten."""
    counted = {file.resolve() for file in configs}
    for folder, config in results_of(store.root.resolve().parent):
        if config.resolve() not in counted:
            told = os.path.relpath(config.resolve()), os.path.relpath(folder)
            print("not among them: {}, which {} has results of".format(*told))


def _print_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Aligned columns; the last one, which may be long, is not padded."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines) if lines else ():
        padded = (cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False))
        print(*padded, line[-1], sep="  ")


def _size(count: int) -> str:
    """Bytes as "12 B", "3.4 kB" or "5.6 GB"."""
    value, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 999.5 and unit != "GB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
