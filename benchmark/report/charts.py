"""Plots of a page as vector graphics: trade-off and learning curves, in panels that reflow.

A page draws them itself rather than showing the figures: they follow its colours, stay legible on a
phone, and every point says what it is and leads to its cell. Limits, spread, notes, and which lines
there are, are those of the figures. What is drawn is plain SVG without a library: one that is
embedded would weigh more than all else on the page (plotly: 4.5 MB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from pandas import DataFrame

from sau_bench.benchmark.report.canvas import ticks
from sau_bench.benchmark.report.captions import BETTER, curves_note, scatter_note
from sau_bench.benchmark.report.curves import (
    beyond,
    has_curves,
    limits_of_rounds,
    scored_counts,
    scored_rounds,
    statistics,
)
from sau_bench.benchmark.report.figures import by_cell, clipped
from sau_bench.benchmark.report.lines import Line, names_of
from sau_bench.benchmark.report.style import Look
from sau_bench.benchmark.report.tables import SOUND, pivot
from sau_bench.benchmark.rows import UNDEFENDED

WIDTH, HEIGHT = 240, 180
"""Units of a panel, which is as wide as its column; text is 10 units high."""
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 8, 32
"""Margins of a panel, for ticks and labels."""
MARKS = 20
"""The most marks of a learning curve."""
CODES = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


@dataclass(frozen=True)
class Point:
    """A mark at (x, y) in units of the panel; says what it is, and leads to a place on the page.

    whiskers: the path of one standard deviation to either side, "" without one.
    """

    method: str
    x: float
    y: float
    says: str
    place: str = ""
    sound: bool = True
    whiskers: str = ""


@dataclass(frozen=True)
class Curve:
    """A line through points in units of the panel, `M x y L x y`."""

    method: str
    path: str


@dataclass(frozen=True)
class Panel:
    """One plot: what its axes say, (place, text) of ticks, and what is drawn."""

    title: str
    across: str
    up: str
    ticks_across: Sequence[tuple[float, str]]
    ticks_up: Sequence[tuple[float, str]]
    points: Sequence[Point]
    curves: Sequence[Curve] = ()
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """Panels with one legend, the styles of the methods by label, and what is said below them."""

    panels: Sequence[Panel]
    styles: Mapping[str, Style]
    note: str


@dataclass(frozen=True)
class Style:
    """name: of the mark on the page. colour: as in CSS. shape: a path, 9 units wide."""

    name: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scale:
    """From values to units of a panel, linear between the ends of an axis."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[tuple[float, str]] = field(init=False)

    def __post_init__(self) -> None:
        values = ticks(self.low, self.high)
        object.__setattr__(self, "ticks", [(self(v), f"{v:g}") for v in values])

    def __call__(self, value: float) -> float:
        """A value beyond the axis lies at its edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def styles_of(looks: Mapping[str, Look]) -> dict[str, Style]:
    """How a page draws each method."""
    return {
        label: _style(f"mark-{number}", look) for number, (label, look) in enumerate(looks.items())
    }


def _style(name: str, look: Look) -> Style:
    """Black becomes the colour of the page's text, which may be white."""
    colour = to_hex(look.colour)
    mark = MarkerStyle(look.marker)
    outline = mark.get_path().transformed(mark.get_transform())
    parts = []
    for points, code in outline.iter_segments(curves=True):
        numbers = np.round(9 * points.reshape(-1, 2) * [1, -1], 2)
        ends = " ".join(f"{x:g} {y:g}" for x, y in numbers)
        parts.append("Z" if code == Path.CLOSEPOLY else f"{CODES[code]}{ends}")
    return Style(name, "currentColor" if colour == "#000000" else colour, "".join(parts))


def trade_off(
    selected: DataFrame,
    lines: Sequence[Line],
    styles: Mapping[str, Style],
    limits: Mapping[str, tuple[float, float]],
) -> Chart | None:
    """ACC against ASR of one (dataset, model) pair, a panel for each attack.

    selected: its rows that count, of which `lines` are the cells. limits: of ACC and ASR.
    """
    drawn = [
        line
        for line in lines
        if line.attack and {"acc", "asr"} <= line.scores.keys()
        if not np.isnan([line.scores["acc"].value, line.scores["asr"].value]).any()
    ]
    if not drawn:
        return None
    across = Scale(*limits["acc"], LEFT, WIDTH - RIGHT)
    up = Scale(*limits["asr"], HEIGHT - BOTTOM, TOP)
    stds = [by_cell(100 * pivot(selected, metric, "std")) for metric in ("acc", "asr")]
    points: dict[str, list[Point]] = {line.attack: [] for line in drawn}
    for line in drawn:
        acc, asr = line.scores["acc"], line.scores["asr"]
        dx, dy = (std[line.attack, line.defense] for std in stds)
        bars = _bar(across, up, acc.value, asr.value, dx=dx)
        bars += _bar(across, up, acc.value, asr.value, dy=dy)
        says = f"{line.defense}: ACC {acc.text}, ASR {asr.text}"
        place, sound = names_of(line.keys, 0)[0], line.state in SOUND
        x, y = across(acc.value), up(asr.value)
        points[line.attack].append(Point(line.defense, x, y, says, place, sound, bars))
    axes = (BETTER["acc"], BETTER["asr"], across.ticks, up.ticks)
    panels = [Panel(attack, *axes, some) for attack, some in points.items()]
    _, below = clipped(100 * pivot(selected, "acc"), limits["acc"][0])
    return _chart(panels, styles, scatter_note(selected, below))


def learning_curves(
    rows: DataFrame, styles: Mapping[str, Style], limits: Mapping[str, tuple[float, float]]
) -> Chart | None:
    """ACC and ASR over rounds of one (dataset, model) pair, two panels for each attack.

    Means over seeds. Lines start at the undefended model, whose level is dashed; what was scored
    once is a mark alone. limits: of ACC and ASR.
    """
    if not has_curves(rows):
        return None
    rounds, victims = rows[scored_rounds(rows)], rows[rows["kind"] == "victim"]
    starts = statistics(victims, ["attack"], limits)
    lines = statistics(rounds, ["attack", "defense"], limits)
    keys = rounds.groupby(["attack", "defense"], sort=False)["key"].first()
    across = Scale(*limits_of_rounds(rounds), LEFT, WIDTH - RIGHT)
    panels = []
    for attack in dict.fromkeys(rounds["attack"]):
        for metric, ends in limits.items():
            up = Scale(*ends, HEIGHT - BOTTOM, TOP)
            start = starts[(attack,)][metric][1] if (attack,) in starts else np.array([])
            points, curves = [], []
            for defense in dict.fromkeys(rounds.loc[rounds["attack"] == attack, "defense"]):
                scored = list(zip(*lines[attack, defense][metric], strict=True))
                place = names_of([keys[attack, defense]], 0)[0]
                if len(scored) > 1:
                    whole = [*((0.0, mean) for mean in start), *((x, y) for x, y, _ in scored)]
                    path = " L".join(f"{across(x)} {up(y)}" for x, y in whole)
                    curves.append(Curve(defense, f"M{path}"))
                for number, (step, mean, std) in enumerate(scored, start=1):
                    # Few enough to be told apart, and the last one.
                    if number % -(-len(scored) // MARKS) and number < len(scored):
                        continue
                    spread = "" if np.isnan(std) else f" ± {std:.2f}"
                    says = f"{defense}, round {step:g}: {metric.upper()} {mean:.2f}{spread}"
                    bar = _bar(across, up, step, mean, dy=std)
                    points.append(Point(defense, across(step), up(mean), says, place, whiskers=bar))
            level = up(start[0]) if len(start) else None
            axes = ("Round", BETTER[metric], across.ticks, up.ticks)
            panels.append(Panel(f"{attack}: {metric.upper()}", *axes, points, curves, level))
    note = curves_note(
        rows, scored_counts(rows, rounds, [*rows["attack"].unique()]), beyond(starts, lines, limits)
    )
    return _chart(panels, styles, note)


def _bar(across: Scale, up: Scale, x: float, y: float, dx: float = 0.0, dy: float = 0.0) -> str:
    """The path of a spread to either side of a point, "" without one."""
    if not (dx > 0 or dy > 0):
        return ""
    return f"M{across(x - dx)} {up(y - dy)}L{across(x + dx)} {up(y + dy)}"


def _chart(panels: Sequence[Panel], styles: Mapping[str, Style], note: str) -> Chart:
    drawn = {point.method for panel in panels for point in panel.points}
    drawn |= {UNDEFENDED} if any(panel.level is not None for panel in panels) else set()
    chosen = {name: style for name, style in styles.items() if name in drawn}
    return Chart(panels, chosen, note)
