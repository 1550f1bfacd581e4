"""The axes of a grid: what their entries are called, and which of them a filter keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.errors import InputError, nearest
from benchmark.plugin import Plugin, key_of

AXES = ("dataset", "model", "attack", "defense", "seed")


def labels_of(axis: str, plugins: Sequence[Plugin]) -> dict[Plugin, str]:
    """A plugin's own label; of several with one label, each also names the fields that differ.

    Those in which they differ from each other; a field that has its default is not named.

    Raises:
        InputError: two that differ in no field have one label.
    """
    labels: dict[Plugin, str] = {}
    groups: dict[str, list[set[str]]] = defaultdict(list)
    for plugin in plugins:
        groups[plugin.label].append(set(_changes(plugin)))
    for plugin in plugins:
        shared = set.intersection(*groups[plugin.label])
        changed = [change for change in _changes(plugin) if change not in shared]
        label = plugin.label + (f" ({', '.join(changed)})" if changed else "")
        if label in labels.values():
            raise InputError(f"two {axis} plugins are both called {label!r}; give one another name")
        labels[plugin] = label
    return labels


def filters_of(only: str) -> dict[str, set[str]]:
    """The names to keep on each axis that "AXIS=NAME,..." mentions.

    Raises:
        InputError: text of another form, or an axis that does not exist.
    """
    filters: dict[str, set[str]] = {}
    for part in filter(None, (p.strip() for p in only.split(","))):
        axis, equals, name = (s.strip() for s in part.partition("="))
        if not equals or axis not in AXES:
            raise InputError(
                f"--only: {part!r} is not AXIS=NAME; axes: {', '.join(AXES)}{nearest(axis, AXES)}"
            )
        filters.setdefault(axis, set()).add(name)
    return filters


def kept(axis: str, plugins: list[Any], names: set[str], labels: dict[Plugin, str]) -> list[Any]:
    """The plugins or seeds of an axis whose key or label is among the names.

    Raises:
        InputError: a name that none of them has.
    """

    def known(entry: Any) -> set[str]:
        return {str(entry)} if axis == "seed" else {key_of(entry), labels[entry]}

    accepted = set().union(*(known(entry) for entry in plugins)) if plugins else set()
    for name in names - accepted:
        raise InputError(
            f"--only: no {axis} {name!r} in this grid; accepted: {', '.join(sorted(accepted))}"
            f"{nearest(name, accepted)}"
        )
    return [entry for entry in plugins if known(entry) & names]


def _changes(plugin: Plugin) -> list[str]:
    def differing(now: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
        for name, value in now.items():
            if isinstance(value, dict):
                yield from differing(value, default.get(name, {}))
            elif value != default.get(name):
                yield f"{name}={value}"

    return list(differing(asdict(plugin), asdict(type(plugin)())))
