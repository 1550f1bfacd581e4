"""What the entries of an axis are called, and which of them a filter keeps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sau_bench.benchmark.errors import InputError, listed, nearest, shown
from sau_bench.benchmark.plugin import Plugin
from sau_bench.benchmark.rows import AXES, UNDEFENDED

Filters = Mapping[str, set[str]]
"""The names to keep, by axis."""


def labels_of(axis: str, variants: Sequence[tuple[Plugin, Sequence[str]]]) -> list[str]:
    """The labels of plugins in order; of several with one label, each also names what differs.

    Fields in which they differ from each other; a field that has its default is not named.

    variants: plugins, with what else tells them apart, such as "clean_ratio=0.01".

    Raises:
        InputError: two that differ in no field have one label, or a defense has that of the victim
            without a defense.
    """
    labels: list[str] = []
    taken = {UNDEFENDED} if axis == "defense" else set()
    changes = [[*_changes(plugin), *more] for plugin, more in variants]
    groups: dict[str, list[set[str]]] = defaultdict(list)
    for (plugin, _), changed in zip(variants, changes, strict=True):
        groups[plugin.label].append(set(changed))
    shared = {label: set.intersection(*changed) for label, changed in groups.items()}
    for (plugin, _), changed in zip(variants, changes, strict=True):
        own = [change for change in changed if change not in shared[plugin.label]]
        label = plugin.label + (f" ({', '.join(own)})" if own else "")
        if label in taken:
            what = shown(label, 200)
            raise InputError(f"two {axis} plugins are both called {what}; give one another name")
        taken.add(label)
        labels.append(label)
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


def check_names(filters: Filters, accepted: Filters, flag: str) -> None:
    """Refuse names that nothing has; accepted: all names, by axis.

    Raises:
        InputError: the first one.
    """
    for axis, names in filters.items():
        known = accepted.get(axis, set())
        for name in sorted(names - known):
            raise InputError(
                f"{flag}: no {axis} {shown(name, 200)} in this grid; "
                f"accepted: {listed(sorted(known))}{nearest(name, known)}"
            )


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
