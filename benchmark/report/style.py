"""How methods look in figures: one colour, mark and line each, the same in every figure.

Colours are of three palettes made for colour-blind readers: the seven of Paul Tol's "muted" that
are dark enough for thin lines on white (Colour Schemes, SRON/EPS/TN/09-002, 2021), Okabe and Ito's
vermillion (Color Universal Design, 2008) and two blues of Petroff's eight (arXiv:2107.02270).
`tests/report/test_style.py` measures how far apart they are for readers of each kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from pandas import DataFrame

from sau_bench.benchmark.rows import UNDEFENDED

Mark = str | tuple[int, int, int]
Line = str | tuple[float, Sequence[float]]

WINE, INDIGO, GREEN, ROSE, TEAL = "#882255", "#332288", "#117733", "#CC6677", "#44AA99"
OLIVE, PURPLE, VERMILLION, BLUE, SKY = "#999933", "#AA4499", "#D55E00", "#1845FB", "#578DFF"
COLOURS = (WINE, INDIGO, GREEN, ROSE, TEAL, OLIVE, PURPLE, VERMILLION, BLUE, SKY)
SPARE_MARKS: tuple[Mark, ...] = ("h", (4, 1, 0), (3, 1, 0), (8, 1, 0))
SPARE_LINES: tuple[Line, ...] = ((0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
LONGEST = 60
"""Characters of a name in a figure; a longer one loses its middle."""
FIELDS = re.compile(r"(?P<method>.+) \((?P<fields>\w[\w.]*=.*)\)")


class Look(NamedTuple):
    """How a method is drawn: a hex colour, a mark and a line style of matplotlib."""

    colour: str
    marker: Mark
    line: Line = "-"


LOOKS = {
    UNDEFENDED: Look("#000000", "d", "--"),
    "SAU": Look(WINE, "*"),
    "FT": Look(BLUE, "o"),
    "AT": Look(VERMILLION, "s"),
    "FP": Look(GREEN, "D"),
    "NC": Look(OLIVE, "^"),
    "NAD": Look(PURPLE, "v"),
    "ANP": Look(INDIGO, "P"),
    "EP": Look(ROSE, "p"),
    "i-BAU": Look(TEAL, "X"),
    "RNP": Look(SKY, "H"),
}
"""Of the defenses that come with the benchmark, and of the undefended model."""


def looks(rows: DataFrame) -> dict[str, Look]:
    """A look for every defense of `rows`, the undefended model first.

    A label that is not in `LOOKS` gets a spare look: where to search for a free one follows from
    the label, so that it mostly keeps its look whichever others there are.
    """
    labels = [d for d in rows["defense"].unique() if d not in (UNDEFENDED, "")]
    taken: dict[str, Look] = {}
    for label in sorted(set(labels) - LOOKS.keys()):
        spare = list(_spare(int(sha256(label.encode()).hexdigest(), 16) % len(COLOURS)))
        taken[label] = next((look for look in spare if look not in taken.values()), spare[0])
    return {UNDEFENDED: LOOKS[UNDEFENDED]} | {d: LOOKS.get(d) or taken[d] for d in labels}


def _spare(start: int) -> Iterator[Look]:
    """Looks that no method of `LOOKS` has: every colour, the first one at `start`, then again."""
    for turn in range(len(SPARE_MARKS)):
        for place in range(start, start + len(COLOURS)):
            colour = place % len(COLOURS)
            mark = SPARE_MARKS[(colour + colour // 4 + turn) % len(SPARE_MARKS)]
            yield Look(COLOURS[colour], mark, SPARE_LINES[(colour + turn) % len(SPARE_LINES)])


def names_of(labels: Iterable[str]) -> dict[str, str]:
    """What labels are called in figures, by label.

    A label names no field that has its default. Beside a variant that sets the field that would
    hide what differs, so its name says `field=default`. Long names lose their middle.
    """
    parsed = {label: _parsed(label) for label in labels}
    fields: dict[str, list[str]] = {}
    for method, own in parsed.values():
        known = fields.setdefault(method, [])
        known += [name for name in own if name not in known]
    names = {}
    for label, (method, own) in parsed.items():
        every = ", ".join(f"{name}={own.get(name, 'default')}" for name in fields[method])
        names[label] = f"{method} ({every})" if own else label
    short = {label: _shortened(name) for label, name in names.items()}
    return short if len(set(short.values())) == len(short) else names


def _parsed(label: str) -> tuple[str, dict[str, str]]:
    """`SAU (epochs=12, lr=0.0004)` as method and fields; a value may contain commas."""
    if not (match := FIELDS.fullmatch(label)):
        return label, {}
    parts = re.split(r", (?=\w[\w.]*=)", match["fields"])
    return match["method"], dict(part.split("=", 1) for part in parts)


def _shortened(name: str) -> str:
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
