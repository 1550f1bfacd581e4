"""Rows of several result folders as one table, in which a label means one thing.

The key of its job says what a row is of; what two keys have in common beside the seed is known
where the config of their rows is. Rows whose labels agree and whose settings do not, or are not
known to, keep apart under the name of their source. Nothing is averaged here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas import DataFrame

from sau_bench.benchmark.rows import NO_RESULT, UNDEFENDED

SCORES = ("step", "value", "acc", "asr", "racc")
"""Columns by which two results of one job are the same."""


@dataclass(frozen=True)
class Setting:
    """What a job was but for its seed, by dotted field: its victim, and its defense if any."""

    victim: Mapping[str, object]
    defense: Mapping[str, object]


@dataclass(frozen=True)
class Conflict:
    """Two sources that disagree. rows: those of the second one where both have scored one job."""

    text: str
    rows: DataFrame


def merged(
    sources: Mapping[str, DataFrame], settings: Mapping[str, Setting]
) -> tuple[DataFrame, list[Conflict]]:
    """The rows with a column `source`, each job once, and what the sources disagree about.

    Of a job that several have scored the first one's rows stay; of one that only some have scored,
    theirs. A label of the first source that has it wins. settings: by key, of jobs that are known.
    """
    parts = [rows.assign(source=name) for name, rows in sources.items() if len(rows)]
    rows = pd.concat(parts, ignore_index=True)
    conflicts: list[Conflict] = []
    for axis in ("attack", "defense"):
        labels, texts = _labels(rows, axis, settings)
        rows[axis] = labels
        conflicts += [Conflict(text, rows[:0]) for text in texts]
    kept, others = _once(rows)
    return kept.reset_index(drop=True), conflicts + others


def _labels(
    rows: DataFrame, axis: str, settings: Mapping[str, Setting]
) -> tuple[list[str], list[str]]:
    """What each row is called along an axis, and a line for each label that means two things."""
    place = ["dataset", "model", axis]
    blocks: dict[tuple[str, ...], set[Hashable]] = {}
    fields: dict[tuple[str, ...], Mapping[str, object]] = {}
    counts = rows["defense"].ne(UNDEFENDED) if axis == "defense" else rows["victim"].ne("")
    key = "key" if axis == "defense" else "victim"
    for *labels, source, job in rows.loc[counts, [*place, "source", key]].to_numpy():
        block = (source, *labels)
        tokens = blocks.setdefault(block, set())
        tokens.add(job)
        if job in settings:
            setting = settings[job].defense if axis == "defense" else settings[job].victim
            tokens.add(tuple(sorted((name, repr(value)) for name, value in setting.items())))
            fields.setdefault(block, setting)
    names: dict[tuple[str, ...], str] = {}
    texts: list[str] = []
    taken: dict[tuple[str, ...], tuple[str, ...]] = {}
    groups = {block: same for same in _classes(blocks) for block in same}
    for same in groups.values():
        for block in same:
            first = next(other for other in same if other[1:3] == block[1:3])
            names[block] = first[3]
    for block in blocks:
        name = names[block]
        owner = taken.setdefault((*block[1:3], name), block)
        if groups[owner] is not groups[block]:
            names[block] = f"{name} [{block[0]}]"
            why = _difference(fields.get(owner), fields.get(block))
            texts.append(
                f"{axis} {name!r} of {block[0]} is not known to be that of {owner[0]} "
                f"({', '.join(block[1:3])}): {why}; it is called {names[block]!r}"
            )
    own = zip(rows["source"], *(rows[name] for name in place), strict=True)
    return [names.get(block, block[-1]) for block in own], texts


def _classes(
    blocks: Mapping[tuple[str, ...], set[Hashable]],
) -> list[list[tuple[str, ...]]]:
    """The blocks that have a token in common, directly or by others, in order."""
    groups: list[tuple[set[Hashable], list[tuple[str, ...]]]] = []
    for block, tokens in blocks.items():
        touching = [group for group in groups if group[0] & tokens]
        groups = [group for group in groups if not group[0] & tokens]
        together = {*tokens}.union(*(known for known, _ in touching))
        groups.append((together, [b for _, members in touching for b in members] + [block]))
    return [members for _, members in groups]


def _difference(first: Mapping[str, object] | None, second: Mapping[str, object] | None) -> str:
    if first is None or second is None:
        return "no config says what one of them is, and they share no job"
    names = differing([first, second])
    return ", ".join(f"{name} {first.get(name)} / {second.get(name)}" for name in names)


def _once(rows: DataFrame) -> tuple[DataFrame, list[Conflict]]:
    """Each job of one source only, and the jobs that two have scored differently."""
    scored = ~rows["status"].isin(NO_RESULT)
    owners: dict[str, str] = dict(
        rows[scored].drop_duplicates("key")[["key", "source"]].itertuples(index=False)
    )
    owners = dict(rows.drop_duplicates("key")[["key", "source"]].itertuples(index=False)) | owners
    kept = rows["source"] == rows["key"].map(owners)
    conflicts = []
    for (key, source), others in rows[scored & ~kept].groupby(["key", "source"], sort=False):
        ours = rows[kept & (rows["key"] == key)]
        if _scores(ours) != _scores(others):
            first, last = ours.iloc[-1], others.iloc[-1]
            pairs = (
                f"{name.upper()} {_percent(first[name])} / {_percent(last[name])}"
                for name in ("acc", "asr")
            )
            cell = " / ".join(filter(None, (first["attack"], first["defense"])))
            text = (
                f"{cell}, seed {first['seed']} (job {key}): {first['source']} and {source} have "
                f"other numbers, {', '.join(pairs)}"
            )
            conflicts.append(Conflict(text, others))
    return rows[kept], conflicts


def _scores(rows: DataFrame) -> list[tuple[float, ...]]:
    numbers = rows[list(SCORES)].apply(pd.to_numeric, errors="coerce").fillna(-1.0)
    return sorted(map(tuple, numbers.to_numpy().tolist()))


def _percent(share: object) -> str:
    number = float(str(share) or "nan")
    return "-" if np.isnan(number) else f"{100 * number:.2f}"


def differing(settings: Sequence[Mapping[str, object]]) -> Iterable[str]:
    """The names of the fields in which settings differ."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return (n for n in names if len({repr(setting.get(n)) for setting in settings}) > 1)
