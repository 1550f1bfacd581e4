"""What a dataclass says of its fields: types and defaults in the words of a config, and meanings.

A meaning stands in the docstring of the class, or of one that it inherits from, as in
`benchmark.train.Recipe`: "name: text." or "name, name: text.", at the start of a paragraph or
behind a sentence. Does not import torch.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from sau_bench.benchmark.plugin import Plugin, plugin_name

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
ABSENT = "absent"
"""What stands for None: a field that is not set."""


@dataclass(frozen=True)
class Described:
    """A field for a reader; default: as a config writes it, empty where one has to be given."""

    name: str
    type: str
    default: str
    meaning: str


def described(cls: type[Any]) -> list[Described]:
    """The fields of a dataclass that a config can set, in order."""
    hints = get_type_hints(cls)
    settable = [f for f in fields(cls) if f.init]
    meanings = meanings_of(cls)
    return [
        Described(f.name, _type(hints[f.name]), _default(f), meanings.get(f.name, ""))
        for f in settable
    ]


def meanings_of(cls: type[Any]) -> dict[str, str]:
    """What docstrings say of each field; those of a class itself count most."""
    names = [f.name for f in fields(cls)]
    found: dict[str, str] = {}
    for base in cls.__mro__:
        # Not `inspect.getdoc`, which would find that of a base.
        found = _meanings(inspect.cleandoc(vars(base).get("__doc__") or ""), names) | found
    return found


def paragraphs(docstring: str, names: Collection[str]) -> list[str]:
    """The paragraphs of a docstring that are of no field and no note.

    names: of the fields.
    """
    whole = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    about = [re.compile(rf"{re.escape(name)}(, \w+)*: ") for name in names]
    return [p for p in whole if not p.startswith("Note:") and not any(a.match(p) for a in about)]


def _meanings(docstring: str, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    start = re.compile(rf"(?:^|(?<=[.)] ))((?:{name})(?:, (?:{name}))*): ")
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        if paragraph.startswith("Note:"):
            continue
        text = " ".join(paragraph.split())
        _, *parts = start.split(text)
        for owners, meaning in zip(parts[::2], parts[1::2], strict=True):
            for owner in owners.split(", "):
                found.setdefault(owner, meaning.strip())
    return found


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _either(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return _either(_type(a) for a in arguments if a is not type(None))
    if origin in (tuple, list):
        inside = [a for a in arguments if a is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments and len(inside) > 1:
            return f"list of {len(inside)} {_plural(_type(inside[0]))}"
        if inside in ([], [Any]):
            return "list"
        return f"list of {'mappings' if is_dataclass(inside[0]) else _plural(_type(inside[0]))}"
    if origin in (dict, Mapping) or hint is dict:
        return "mapping"
    if isinstance(hint, type) and is_dataclass(hint):
        return hint.__name__.lower()
    return WORDS.get(hint, "any")


def _plural(words: str) -> str:
    return words if words in ("true or false", "text", "any") or "`" in words else f"{words}s"


def _either(words: Iterable[str]) -> str:
    different = list(dict.fromkeys(words))
    return ", ".join(different[:-1]) + (" or " if different[1:] else "") + different[-1]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return ""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return written(value)


def written(value: Any) -> str:
    """A value as a config writes it, in one line; of a recipe, say, what differs from its own."""
    if value is None:
        return ABSENT
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Plugin):
        changed = _changed(value)
        return {plugin_name(value): changed} if changed else plugin_name(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _changed(value)
    if isinstance(value, Mapping):
        return {key: _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return value


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    return {
        f.name: _plain(getattr(value, f.name))
        for f in fields(value)
        if f.init and (f.default is MISSING or getattr(value, f.name) != f.default)
    }
