"""Published numbers: what is in `results/paper/`, and which of them a measured cell belongs to.

A published cell is known by what was run for it, in the words of the papers (`Cell`). Which jobs of
a grid are the same cell says `benchmark.grid.published`, and reports print both. Does not import
torch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from sau_bench.benchmark.rows import UNDEFENDED
from sau_bench.benchmark.shipped import PAPER

AVERAGE = "Average"
"""What takes the place of the attack in a paper's own line of averages."""
SCORES = ("acc", "asr", "racc", "der", "asr_1", "asr_2")
"""The columns of published scores, in percent; `asr_1` and `asr_2` are of two triggers."""


class Cell(NamedTuple):
    """A cell of a published table, by the names that it prints; ratio: of poisoning, a share."""

    dataset: str
    network: str
    ratio: float
    attack: str
    defense: str


class Departure(NamedTuple):
    """A field in which a run differs from what was published.

    part: "dataset", "network", "victim" (its training), "attack" or "defense". field: dotted name.
    """

    part: str
    field: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.field} {_shown(self.ours)} ({_shown(self.theirs)})"


@dataclass(frozen=True)
class Layout:
    """A table as the paper prints it.

    rows: (what is printed, cell with an empty defense) in its order. defenses: the columns, without
    the undefended model. metrics: of each defense. kind: where its numbers are from, "paper",
    "leaderboard", or "oracle", cells of a leaderboard that were selected with test data.
    """

    table: str
    section: str
    rows: tuple[tuple[str, Cell], ...]
    defenses: tuple[str, ...]
    metrics: tuple[str, ...] = ("acc", "asr", "racc", "der")
    kind: Literal["paper", "leaderboard", "oracle"] = "paper"

    def cells(self) -> Iterator[Cell]:
        """Every cell, undefended ones included."""
        for _, row in self.rows:
            for defense in (UNDEFENDED, *self.defenses):
                yield row._replace(defense=defense)


class Value(NamedTuple):
    """Published scores of one cell in percent, by metric; select: the rule if one is known."""

    source: str
    table: str
    select: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Paper:
    """What `results/paper/` holds.

    names: of datasets, networks, attacks and defenses with what was run, as in `tables.yaml`.
    """

    names: Mapping[str, Any]
    layouts: tuple[Layout, ...]
    values: Mapping[Cell, tuple[Value, ...]]
    seconds: Mapping[Cell, float]
    norms: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Reproduced:
    """Which published cells the jobs of a grid are.

    identities: of published cells; two cells with one identity are the same experiment. runs: by
    key of a job the identities of its cells, each with the fields in which it departs.
    """

    identities: Mapping[Cell, str] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, tuple[Departure, ...]]] = field(default_factory=dict)


def read_paper(folder: Path = PAPER) -> Paper | None:
    """The published numbers in a folder, or None where there are none."""
    if not (folder / "tables.yaml").is_file():
        return None
    names = yaml.safe_load((folder / "tables.yaml").read_text(encoding="utf-8"))
    values: dict[Cell, list[Value]] = {}
    for row in _rows(folder / "reported_results.csv"):
        if row["compared"] == "yes":
            scores = {name: float(row[name]) for name in SCORES if row[name]}
            value = Value(row["source"], row["table"], row["select"], scores)
            values.setdefault(_cell(row), []).append(value)
    seconds = {
        _cell(row | {"attack": AVERAGE}): float(row["seconds"])
        for row in _rows(folder / "times.csv")
    }
    layouts = tuple(_layout(table) for table in names["tables"])
    of_cell = {cell: tuple(found) for cell, found in values.items()}
    return Paper(names, layouts, of_cell, seconds, tuple(_rows(folder / "trigger_norms.csv")))


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _cell(row: Mapping[str, str]) -> Cell:
    ratio = round(float(row["poison_ratio"].rstrip("%")) / 100, 6)
    return Cell(row["dataset"], row["architecture"], ratio, row["attack"], row["defense"])


def _layout(table: Mapping[str, Any]) -> Layout:
    ratios = table.get("ratios", [0.1])
    where = table["dataset"], table["network"]
    rows = []
    for attack in table["attacks"]:
        for ratio in ratios:
            shown = attack if len(ratios) == 1 else f"{attack}, {100 * ratio:g} %"
            rows.append((shown, Cell(*where, ratio, attack, "")))
    metrics = tuple(table.get("metrics", Layout.metrics))
    return Layout(table["table"], table["section"], tuple(rows), tuple(table["defenses"]), metrics)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 30 else f"{text[:26]} ..."
