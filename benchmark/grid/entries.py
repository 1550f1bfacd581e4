"""The entries of an axis: each is one plugin, or as many as the values that a field sweeps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sau_bench.benchmark.errors import InputError, listed, nearest, shown
from sau_bench.benchmark.grid.config import When
from sau_bench.benchmark.loading import build, class_of, parse, plugin_names
from sau_bench.benchmark.plugin import Plugin, construct, plugin_name
from sau_bench.benchmark.train import Recipe

VARIANTS = 1_000
"""The most plugins of one entry."""
Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One plugin of an axis.

    kind: of the plugin. name: as the config writes it, with `:VALUE` if it has one. values: the
    fields that it sets. recipe: what an attack changes of the victims' recipe.
    """

    kind: str
    name: str
    values: Values
    recipe: Values

    def plugin(self, changes: Sequence[Values] = ()) -> Plugin:
        """The plugin; changes: fields that count where the config sets none, the last one most."""
        values: Values = {}
        for layer in (*changes, self.values):
            values = merged(values, layer)
        return build(self.kind, {self.name: values})


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an entry of `when` changes of one plugin."""

    cls: type[Plugin]
    values: Values
    recipe: Values


def merged(first: Values, second: Values) -> dict[str, Any]:
    """The second mapping over the first, and so are mappings inside of both."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        if isinstance(first[name], Mapping) and isinstance(second[name], Mapping):
            both[name] = merged(first[name], second[name])
    return both


def entries_of(kind: str, specs: Sequence[Any]) -> list[Entry]:
    """The entries of an axis in order, sweeps written out; no plugin is made.

    Raises:
        InputError: no form of a plugin, no such plugin, or a list that is no sweep.
    """
    return [entry for spec in specs for entry in _variants(kind, spec)]


def changes_of(kind: str, plugins: Mapping[str, Values | None], what: str) -> list[Change]:
    """The changes of one entry of `when`, each of which is right by itself.

    what: the entry, for errors.

    Raises:
        InputError: no such plugin, field or value.
    """
    changes = []
    for name, fields_ in plugins.items():
        values, recipe = _split(kind, fields_ or {})
        try:
            build(kind, {name: values})
            construct(Recipe, recipe, f"{kind[:-1]} {shown(name, 200)}: recipe")
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        changes.append(Change(cls=class_of(kind, name), values=values, recipe=recipe))
    return changes


def holds(when: When, condition: str, plugin: Plugin) -> bool:
    """Whether an entry of `when` names the "dataset" or "model", or any."""
    names = when.names(condition)
    return names is None or plugin_name(plugin) in names


def check_conditions(when: When, plugins: Mapping[str, Sequence[Plugin]], what: str) -> None:
    """Refuse names that no plugin has.

    plugins: of the config, by "dataset" and "model". what: the entry, for errors.

    Raises:
        InputError: the first one.
    """
    for condition, own in plugins.items():
        here = [plugin_name(plugin) for plugin in own]
        for name in when.names(condition) or ():
            if name not in here and name not in (known := plugin_names(f"{condition}s")):
                raise InputError(
                    f"{what}: no {condition} {shown(name)}; accepted: "
                    f"{listed(sorted({*known, *here}))}{nearest(name, [*known, *here])}"
                )


def _split(kind: str, values: Values) -> tuple[Values, Values]:
    """The fields of a plugin, and what it changes of the victims' recipe if it is an attack."""
    if kind != "attacks" or not isinstance(values.get("recipe"), Mapping):
        return values, {}
    return {name: value for name, value in values.items() if name != "recipe"}, values["recipe"]


def _variants(kind: str, spec: Any) -> list[Entry]:
    name, written = parse(kind, spec)
    values, recipe = _split(kind, written)
    sweeps: list[tuple[tuple[str, ...], list[Any]]] = []
    if any(_has_list(value) for value in values.values()):
        what = f"{kind[:-1]} {shown(name, 200)}"
        sweeps = list(_sweeps(class_of(kind, name), values, what))
    if (count := math.prod(len(options) for _, options in sweeps)) > VARIANTS:
        raise InputError(
            f"{kind[:-1]} {shown(name, 200)} stands for {count:,} plugins, accepted: at most "
            f"{VARIANTS:,}"
        )
    entries = []
    for chosen in product(*(options for _, options in sweeps)):
        fields_ = values
        for (path, _), value in zip(sweeps, chosen, strict=True):
            for part in reversed(path):
                value = {part: value}
            fields_ = merged(fields_, value)
        entries.append(Entry(kind=kind, name=name, values=fields_, recipe=recipe))
    return entries


def _sweeps(
    cls: type[Any], values: Values, what: str, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The fields that are given a list of values, as a path, with those values.

    A field that itself takes a list is swept by a list of lists.
    """
    known = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in known:
            continue  # `construct` says so
        default = known[name].default
        if isinstance(value, Mapping) and is_dataclass(default):
            yield from _sweeps(type(default), value, what, (*path, name))
        elif isinstance(value, list):
            if _takes_list(cls, name) and not (value and all(isinstance(v, list) for v in value)):
                continue
            if len(value) < 2:
                raise InputError(
                    f"{what}: {'.'.join((*path, name))} is {shown(value)}, accepted: a value, or a "
                    "list of at least two"
                )
            yield (*path, name), value


def _has_list(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_list(inside) for inside in value.values())
    return isinstance(value, list)


def _takes_list(cls: type[Any], name: str) -> bool:
    """Whether a field's own values are lists; so they are where nobody knows its type."""
    try:
        hint = get_type_hints(cls)[name]
    except Exception:  # whatever the annotations of a plugin raise
        return True
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(option) or option for option in options]
    return any(
        kind is Any
        or (isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, str))
        for kind in kinds
    )
