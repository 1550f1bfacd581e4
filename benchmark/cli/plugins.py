"""The verbs `list` and `fetch`: the plugins that are here, without torch; and their data."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields
from typing import Any

from sau_bench.benchmark.cli.options import data_folder
from sau_bench.benchmark.standins import without_torch


def list_plugins(arguments: argparse.Namespace) -> int:
    """Print a line for each plugin of a kind; one that is broken costs its line."""
    for line in without_torch(lambda: describe(arguments.kind)):
        print(line)
    return 0


def describe(kind: str) -> list[str]:
    """A line for each built-in and installed plugin: its name, its title, its fields."""
    from sau_bench.benchmark.errors import InputError
    from sau_bench.benchmark.loading import load, plugin_names

    lines = []
    for name in plugin_names(kind):
        try:
            cls = load(kind, name)
        except InputError as error:
            lines.append(f"{name}: broken: {error}")
            continue
        settings = ", ".join(f"{f.name}={_default(f)!r}" for f in fields(cls) if f.init)
        lines.append(f"{name}: {cls.name}" + (f" ({settings})" if settings else ""))
    return lines


def _default(field: Field[Any]) -> object:
    made = field.default_factory
    return field.default if made is MISSING else made()


def fetch(arguments: argparse.Namespace) -> int:
    """Download a dataset."""
    from sau_bench.benchmark.data import Dataset
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.loading import build

    dataset = build("datasets", arguments.dataset)
    assert isinstance(dataset, Dataset)
    dataset.fetch(data_folder(arguments, Config.data))
    return 0
