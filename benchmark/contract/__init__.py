"""What every plugin promises, as checks that run on any plugin class.

`check(kind, cls)` runs a plugin with its `smoke` fields on a few digits and raises at the first
broken rule. The project's tests call it for each plugin file found; an out-of-tree plugin's tests
can call it in the same way.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from sau_bench.benchmark.contract.attacks import check_attack
from sau_bench.benchmark.contract.datasets import check_dataset
from sau_bench.benchmark.contract.defenses import check_defense
from sau_bench.benchmark.contract.models import check_model
from sau_bench.benchmark.contract.rules import BrokenRule, require
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.loading import plugin_names
from sau_bench.benchmark.plugin import KINDS, Plugin, construct

__all__ = ["BrokenRule", "check"]


def check(kind: str, cls: type[Plugin]) -> None:
    """Check one plugin class of a kind ("attacks", "defenses", "models", "datasets").

    Raises:
        BrokenRule: the first rule it breaks.
    """
    plugin = _check_class(kind, cls)
    checks: dict[str, Callable[[Any], None]] = {
        "attacks": check_attack,
        "defenses": check_defense,
        "models": check_model,
        "datasets": check_dataset,
    }
    checks[kind](plugin)


def _check_class(kind: str, cls: type[Plugin]) -> Plugin:
    document = cls.__doc__ or ""
    for field in fields(cls):
        inherited = any(
            field.name in getattr(base, "__annotations__", {}) for base in cls.__mro__[1:]
        )
        named = inherited or field.name in document
        require(named, "every field is documented", field.name)
    try:
        plugin: Plugin = construct(cls, dict(cls.smoke), cls.__name__)
        construct(cls, {}, cls.__name__)
    except InputError as error:
        raise BrokenRule("defaults and smoke values are valid fields", str(error)) from error
    require(pickle.loads(pickle.dumps(plugin)) == plugin, "a plugin survives pickling")
    require(hash(plugin) == hash(copy.deepcopy(plugin)), "a plugin is a value")
    text = json.dumps(plugin.canonical())
    require(str(Path(__file__).parents[2]) not in text, "no path enters the key", text)
    others = {f"{KINDS[k]}.{key}" for k in KINDS for key in plugin_names(k)} - {cls.__module__}
    for module in _imports(Path(inspect.getfile(cls))):
        require(module not in others, "a plugin imports no other plugin", module)
    return plugin


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
