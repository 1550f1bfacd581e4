"""What the entries of an axis are called, and which of them a filter keeps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.errors import InputError, listed, nearest, shown
from benchmark.plugin import Plugin, plugin_name
from benchmark.rows import AXES, UNDEFENDED

Filters = Mapping[str, set[str]]
"""The names to keep, by axis."""


def labels_of(axis: str, plugins: Sequence[Plugin]) -> dict[Plugin, str]:
    """The label of each plugin; of several with one label, each also names the fields that differ.

    Those in which they differ from each other; a field that has its default is not named.

    Raises:
        InputError: two that differ in no field have one label, or a defense has that of the victim
            without a defense.
    """
    labels: dict[Plugin, str] = {}
    taken = {UNDEFENDED} if axis == "defense" else set()
    groups: dict[str, list[set[str]]] = defaultdict(list)
    for plugin in plugins:
        groups[plugin.label].append(set(_changes(plugin)))
    shared = {label: set.intersection(*changes) for label, changes in groups.items()}
    for plugin in plugins:
        changed = [change for change in _changes(plugin) if change not in shared[plugin.label]]
        label = plugin.label + (f" ({', '.join(changed)})" if changed else "")
        if label in taken:
            what = shown(label, 200)
            raise InputError(f"two {axis} plugins are both called {what}; give one another name")
        taken.add(label)
        labels[plugin] = label
    return labels


def filters_of(texts: Sequence[str], flag: str = "--only") -> dict[str, set[str]]:
    """The names to keep on each axis that texts such as "attack=lf,defense=sau" mention.

    A name may be any label of a table: a comma separates two parts only where an axis follows it
    and no parenthesis is open, so "SAU (epochs=12, lr=0.0004)" is one name.

    Raises:
        InputError: text of another form, or an axis that does not exist.
    """
    filters: dict[str, set[str]] = {}
    for part in (part for text in texts for part in _parts(text)):
        axis, equals, name = (s.strip() for s in part.partition("="))
        if not equals or axis not in AXES:
            raise InputError(
                f"{flag}: {shown(part)} is not AXIS=NAME; "
                f"axes: {', '.join(AXES)}{nearest(axis, AXES)}"
            )
        filters.setdefault(axis, set()).add(name)
    return filters


def filtered(
    axis: str, entries: list[Any], names: set[str], labels: Mapping[Plugin, str], flag: str
) -> list[Any]:
    """The plugins or seeds of an axis whose plugin name or label is among the names.

    Raises:
        InputError: a name that none of them has.
    """

    def known(entry: Any) -> set[str]:
        return {str(entry)} if axis == "seed" else {plugin_name(entry), labels[entry]}

    accepted = set().union(*(known(entry) for entry in entries)) if entries else set()
    for name in sorted(names - accepted):
        raise InputError(
            f"{flag}: no {axis} {shown(name, 200)} in this grid; "
            f"accepted: {listed(sorted(accepted))}{nearest(name, accepted)}"
        )
    return [entry for entry in entries if known(entry) & names]


def _parts(text: str) -> list[str]:
    parts = [""]
    for piece in re.split(r"(,)", text):
        whole = parts[-1].count("(") <= parts[-1].count(")")
        if piece == "," and whole:
            parts.append("")
        else:
            parts[-1] += piece
    # A comma before anything but an axis belongs to the name.
    joined: list[str] = []
    for part in parts:
        if joined and "=" not in part:
            joined[-1] += "," + part
        else:
            joined.append(part)
    return [part.strip() for part in joined if part.strip()]


def _changes(plugin: Plugin) -> list[str]:
    def differing(now: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
        for name, value in now.items():
            if isinstance(value, dict):
                yield from differing(value, default.get(name, {}))
            elif value != default.get(name):
                yield f"{name}={value}"

    try:
        default = asdict(type(plugin)())
    except Exception:  # a field without a default, or defaults that its own checks refuse
        default = {}
    return list(differing(asdict(plugin), default))
