"""The verb `new`: a file to begin a plugin with, which keeps the contract as it is."""

from __future__ import annotations

import argparse
import json
import keyword
import re
import shlex
from pathlib import Path

from sau_bench.benchmark.cli.options import kind_of
from sau_bench.benchmark.errors import InputError, shown
from sau_bench.benchmark.shipped import command
from sau_bench.benchmark.standins import without_torch

TEMPLATES = Path(__file__).parents[1] / "templates"
CONFIG = {
    "datasets": ["digits"],
    "models": ["small_cnn"],
    "attacks": ["badnets"],
    "defenses": ["ft"],
    "recipe": {"epochs": 8, "lr": 0.05},
}
"""A small grid, of which the new plugin takes one place."""


def new(arguments: argparse.Namespace) -> int:
    """Write the file, and print the two commands to go on with."""
    name = arguments.name.removesuffix(".py")
    without_torch(lambda: _check_name(arguments.kind, name))
    file = Path(arguments.to, f"{name}.py")
    if not file.parent.is_dir():
        raise InputError(f"--to {str(arguments.to)!r} is no folder; accepted: one that exists")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text_of(arguments.kind, name))
    except FileExistsError:
        raise InputError(f"{file} exists already; choose another name or --to") from None
    grid = shlex.quote(str(file.with_suffix(".yaml")))
    config = shlex.quote(json.dumps(CONFIG | {arguments.kind: [str(file)]}))
    print(f"wrote {file}, which works as it is: change what it does. Then test it, and run it")
    print(f"  {command()} check {shlex.quote(str(file))}")
    print(f"  echo {config} > {grid} && {command()} run {grid}")
    return 0


def text_of(kind: str, name: str) -> str:
    """The file of a new plugin. kind: "attacks", say. name: of the file, without its suffix."""
    words = name.replace("_", " ").strip()
    text = (TEMPLATES / f"{kind[:-1]}.py").read_text(encoding="utf-8")
    title = words[:1].upper() + words[1:]
    return text.replace("MyPlugin", _class_name(name)).replace("My plugin", title)


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _check_name(kind: str, name: str) -> None:
    from sau_bench.benchmark.loading import plugin_names

    if not re.fullmatch("[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name):
        raise InputError(
            f"name {shown(name)}, accepted: a small letter, then small letters, digits and _, such "
            "as my_defense"
        )
    if name in plugin_names(kind):
        raise InputError(f"{kind[:-1]} {name!r} exists already; accepted: a new name")


def add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", type=kind_of, help="attack, defense, dataset or model")
    parser.add_argument("name", help="of the file, such as my_defense")
    parser.add_argument(
        "--to", type=Path, default=Path(), metavar="FOLDER", help="where to write it (default: .)"
    )
