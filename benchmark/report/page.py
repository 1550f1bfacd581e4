"""The parts of a page that a browser opens: one file with its styles, script and pictures inside.

Everything that comes from rows is text: templates escape it, and the script only compares it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import MultiIndex

from sau_bench.benchmark.report import charts
from sau_bench.benchmark.report.render import Table

CHOICES = 60
"""The most values of a column that a reader can choose from; more are searched for."""
SIZE = {
    "width": charts.WIDTH,
    "height": charts.HEIGHT,
    "left": charts.LEFT,
    "right": charts.WIDTH - charts.RIGHT,
    "top": charts.TOP,
    "base": charts.HEIGHT - charts.BOTTOM,
}


@cache
def _environment() -> Environment:
    folder = Path(__file__).with_name("templates")
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def render(template: str, **context: Any) -> str:
    """The text of a page. context: what its template names, beside `SIZE` of a panel."""
    return _environment().get_template(template).render(size=SIZE, **context)


def embedded(file: Path) -> str:
    """A PNG as an address that holds all of it."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


@dataclass(frozen=True)
class Cell:
    """A cell of a table; columns, lines: how many it spans."""

    text: str
    style: str = ""
    rank: float = 0
    head: bool = False
    columns: int = 1
    lines: int = 1


@dataclass(frozen=True)
class Row:
    """A line of a table; ruled: a rule stands above it."""

    cells: Sequence[Cell]
    ruled: bool


@dataclass(frozen=True)
class ShownTable:
    """A `Table` as templates print it; name: what it is called where it can be scrolled."""

    name: str
    caption: str
    head: Sequence[Sequence[Cell]]
    body: Sequence[Row]
    notes: Sequence[str]


def shown(table: Table) -> ShownTable:
    """What a template prints of a table."""
    name = table.caption.split(".")[0].split(":")[0].split(";")[0]
    return ShownTable(name, table.caption, _head(table), _body(table), table.notes)


def _style(table: Table, column: int) -> str:
    return " ".join(["label"] * (column < table.left) + ["first"] * (column == 0))


def _head(table: Table) -> list[list[Cell]]:
    columns = table.text.columns
    if not isinstance(columns, MultiIndex):
        return [[Cell(name, _style(table, place)) for place, name in enumerate(columns)]]
    names = [(str(group), str(name)) for group, name in columns]
    top = [
        Cell(name, _style(table, place), lines=2)
        for place, (_, name) in enumerate(names[: table.left])
    ]
    groups: dict[str, int] = {}
    for group, _ in names[table.left :]:
        groups[group] = groups.get(group, 0) + 1
    top += [Cell(group, columns=count) for group, count in groups.items()]
    return [top, [Cell(name) for _, name in names[table.left :]]]


def _body(table: Table) -> list[Row]:
    text = table.text.to_numpy()
    ranks = table.ranks.reindex_like(table.text).to_numpy(float)
    grouped = isinstance(table.text.columns, MultiIndex)
    rows: list[Row] = []
    for place, line in enumerate(text):
        cells = []
        for column, value in enumerate(line):
            style, lines = _style(table, column), 1
            if grouped and column == 0:
                if not value:  # the label above spans this line
                    continue
                below = text[place + 1 :, 0]
                lines = 1 + int(np.argmax(below != "") if (below != "").any() else len(below))
            head = column < table.left
            cells.append(Cell(str(value), style, ranks[place, column], head, lines=lines))
        average = line[0] == "Average" or (grouped and bool(line[0]) and place > 0)
        rows.append(Row(cells, average))
    return rows


@dataclass(frozen=True)
class Value:
    """What an entry has in a column: as printed, and by which it is sorted and chosen."""

    text: str
    sort: str
    numeric: bool

    @classmethod
    def of(cls, text: str, number: float | None = None) -> Value:
        """Text, or a number as it is printed; NaN, which is sorted last, is a number."""
        if number is None:
            return cls(text or "-", text, False)
        return cls(text, "" if np.isnan(number) else f"{number:.6g}", True)


@dataclass(frozen=True)
class Column:
    """first: the order in which a column is sorted first. choices: values to filter by."""

    index: int
    title: str
    numeric: bool
    first: str
    choices: Sequence[str]


@dataclass(frozen=True)
class Entry:
    """A line of a listing and what is known about it.

    names: where links lead, the first one is that of the entry. runs, properties: see
    `benchmark.report.lines.Line`.
    """

    names: Sequence[str]
    title: str
    values: Sequence[Value]
    runs: Sequence[str]
    properties: Sequence[tuple[str, Sequence[str]]]
    flagged: bool


@dataclass(frozen=True)
class Listing:
    """A table to sort and filter; marks: that occur in it, with their meanings."""

    caption: str
    columns: Sequence[Column]
    entries: Sequence[Entry]
    marks: Mapping[str, str]


def listing(
    caption: str,
    titles: Sequence[str],
    entries: Sequence[Entry],
    marks: Mapping[str, str],
    ascending: Iterable[str] = (),
) -> Listing:
    """A listing. titles: of its columns; ascending: numbers of which the smallest are best."""
    columns = tuple(_columns(titles, entries, set(ascending)))
    return Listing(caption, columns, entries, marks)


def _columns(
    titles: Sequence[str], entries: Sequence[Entry], ascending: set[str]
) -> Iterator[Column]:
    for index, title in enumerate(titles):
        values = [entry.values[index] for entry in entries]
        numeric = bool(values) and values[0].numeric
        choices = list(dict.fromkeys(value.sort for value in values if value.sort))
        if numeric or not 1 < len(choices) <= CHOICES:
            choices = []
        first = "descending" if numeric and title not in ascending else "ascending"
        yield Column(index, title, numeric, first, choices)
