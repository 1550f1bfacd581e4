"""What every plugin promises, as checks that run on any plugin class.

`check(kind, cls)` runs a plugin with its `smoke` fields on a few digits and raises at the first
broken rule; rules that a grid checks as well are in `benchmark.rules`. The project's tests call it
for each plugin file found; an out-of-tree plugin's tests can call it in the same way.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sau_bench.benchmark.contract.attacks import check_attack
from sau_bench.benchmark.contract.datasets import check_dataset
from sau_bench.benchmark.contract.defenses import check_defense
from sau_bench.benchmark.contract.manners import manners
from sau_bench.benchmark.contract.models import check_model
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.loading import plugin_names
from sau_bench.benchmark.plugin import KINDS, Plugin, construct, lacks_annotation, unannotated
from sau_bench.benchmark.rules import BrokenRule, counted, file_of, require

__all__ = ["BrokenRule", "check"]


def check(kind: str, cls: type[Plugin]) -> Sequence[str]:
    """Check one plugin class of a kind ("attacks", "defenses", "models", "datasets").

    Returns:
        The rules that it keeps.

    Raises:
        BrokenRule: the first rule it breaks.
    """
    with counted() as rules:
        try:
            plugin = _check_class(kind, cls)
        except BrokenRule as broken:
            broken.line = broken.line or inspect.getsourcelines(cls)[1]
            raise
        checks: dict[str, Callable[[Any], None]] = {
            "attacks": check_attack,
            "defenses": check_defense,
            "models": check_model,
            "datasets": check_dataset,
        }
        with manners(file_of(cls)):
            checks[kind](plugin)
    return rules


def _check_class(kind: str, cls: type[Plugin]) -> Plugin:
    file = file_of(cls)
    tree = ast.parse(file.read_text())
    loose = next(iter(unannotated(cls)), "")
    line = _assignment(tree, cls.__name__, loose)
    detail = lacks_annotation(cls, loose) if loose else ""
    require(not loose, "every setting has an annotation", detail, line)
    document = cls.__doc__ or ""
    for field in fields(cls):
        inherited = any(
            field.name in getattr(base, "__annotations__", {}) for base in cls.__mro__[1:]
        )
        named = inherited or field.name in document
        detail = f"say in the docstring what {field.name!r} is, its unit and range"
        line = _assignment(tree, cls.__name__, field.name)
        require(named, "every field is documented", detail, line)
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
    for module, line in _imports(tree):
        require(module not in others, "a plugin imports no other plugin", module, line)
        detail = f"write sau_bench.{module}: plainly imported, the same file is another module"
        require(not _is_ours(module), "a plugin imports from sau_bench", detail, line)
    return plugin


def _assignment(tree: ast.Module, cls: str, name: str) -> int | None:
    """The line of a class in which a name gets its value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else []
                targets += [line.target] if isinstance(line, ast.AnnAssign) else []
                if name in [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]:
                    return line.lineno
    return None


def _is_ours(module: str) -> bool:
    """Whether a module that was imported by a plain name is a file of this project."""
    file = getattr(sys.modules.get(module), "__file__", None)
    home = Path(__file__).resolve().parents[2]
    ours = file is not None and Path(file).resolve().is_relative_to(home)
    return ours and module.partition(".")[0] in {kind.split(".")[1] for kind in KINDS.values()}


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, and names that may be modules; the line of each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
