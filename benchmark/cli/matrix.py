"""Tables of states, attack x defense, that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sau_bench.benchmark.rows import UNDEFENDED

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Matrix:
    """The states of the cells of a dataset, model and seed: attack x defense."""

    title: str
    states: dict[str, dict[str, str]]

    def tables(self, width: int) -> list[tuple[str, Table]]:
        """In lines of so many characters: one, or several that have a part of the defenses each.

        Each with its title, which rich would break at the width of the table.
        """
        from rich.table import Table

        columns = list(next(iter(self.states.values()), {UNDEFENDED: ""}))
        widths = {c: width_of([c, *(row[c] for row in self.states.values())]) for c in columns}
        attacks = width_of(["attack", *self.states])
        whole = width - 1 - attacks  # 1: the border on the right
        groups, room = [[columns[0]]], whole - widths[columns[0]]
        for column in columns[1:]:
            if room < widths[column]:
                groups.append([])
                room = whole
            groups[-1].append(column)
            room -= widths[column]
        made = []
        for group in groups:
            title = self.title if group is groups[0] else f"{self.title}, continued"
            table = Table()
            table.add_column("attack", width=attacks - 3)
            for column in group:  # rich would cut long words in two before it wraps short ones
                table.add_column(cut(column), width=widths[column] - 3)
            for attack, row in self.states.items():
                table.add_row(cut(attack), *(row[column] for column in group))
            made.append((title, table))
        return made


WORD = 24
"""Characters of a word of a label in a table."""


def cut(label: str) -> str:
    """A label whose long words are cut, as rich prints it."""
    from rich.markup import escape

    words = [word if len(word) <= WORD else f"{word[: WORD - 3]}..." for word in label.split()]
    return escape(" ".join(words))


def width_of(texts: Iterable[str]) -> int:
    """The width of a column, with a border and padding: texts are wrapped between words."""
    return 3 + min(WORD, max((len(word) for text in texts for word in text.split()), default=0))
