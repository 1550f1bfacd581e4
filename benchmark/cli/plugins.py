"""The verbs `list` and `fetch`: the plugins that are here, without torch; and their data."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sau_bench.benchmark.cli.options import KINDS, data_folder
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.plugin import Plugin

WIDTH = 80
"""Characters of a line."""


def list_plugins(arguments: argparse.Namespace) -> int:
    """Print what there is of a kind, or of all; a plugin that is broken costs its lines."""
    for kind in [arguments.kind] if arguments.kind else KINDS:
        if arguments.kind is None:
            print(f"\n{kind}\n" if kind != KINDS[0] else f"{kind}\n")
        for line in without_torch(partial(describe, kind)):
            print(line)
    return 0


def describe(kind: str) -> list[str]:
    """Lines for each built-in and installed plugin: its name, title and paper, then indented what
    it does, by the first sentence of its docstring, and its fields with their defaults.
    """
    from sau_bench.benchmark.errors import InputError
    from sau_bench.benchmark.loading import load, plugin_names

    lines = []
    for name in plugin_names(kind):
        try:
            cls = load(kind, name)
        except InputError as error:
            lines += _filled(f"{name}: broken: {error}", "")
            continue
        lines += _filled(", ".join(filter(None, (f"{name}: {cls.name}", _paper(cls)))), "")
        lines += _filled(_first_sentence(cls.__doc__ or ""), "  ")
        settings = ", ".join(f"{f.name}={_shown(_default(f))}" for f in fields(cls) if f.init)
        lines += _filled(settings, "  ")
    return lines


def _paper(cls: type[Plugin]) -> str:
    """The arXiv numbers in the docstring of the plugin's file, else what it has in parentheses."""
    text = " ".join((sys.modules[cls.__module__].__doc__ or "").split())
    if numbers := re.findall(r"arXiv[: ](\d{4}\.\d{4,5})", text):
        return f"arXiv {', '.join(dict.fromkeys(numbers))}"
    cited = re.search(r"\(([^()]*\d{4}[^()]*)\)", text)
    return cited[1] if cited else ""


def _first_sentence(text: str) -> str:
    first = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z])", first)[0]


def _filled(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _default(field: Field[Any]) -> object:
    made = field.default_factory
    return field.default if made is MISSING else made()


def _shown(value: object) -> str:
    """A default as a config would say it; of a recipe, say, what differs from its own defaults."""
    if value is MISSING:
        return "(required)"
    if is_dataclass(value) and not isinstance(value, type):
        name = getattr(type(value), "name", None)
        changed = {
            f.name: getattr(value, f.name)
            for f in fields(value)
            if f.init and getattr(value, f.name) != _default(f)
        }
        return f"{name or ''}{{{_pairs(changed)}}}" if changed or not name else str(name)
    if isinstance(value, Mapping):
        return f"{{{_pairs(value)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if value != "" else '""'


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_shown(value)}" for name, value in values.items())


def fetch(arguments: argparse.Namespace) -> int:
    """Download a dataset."""
    from sau_bench.benchmark.data import Dataset
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.loading import build

    dataset = build("datasets", arguments.dataset)
    assert isinstance(dataset, Dataset)
    dataset.fetch(data_folder(arguments, Config.data))
    return 0
