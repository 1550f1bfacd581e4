"""Plots of a page as vector graphics: trade-off and learning curves, in panels that reflow.

A page draws them itself rather than showing the figures: they follow its colours, stay legible on a
phone, and every point says what it is and leads to its cell. What is drawn is plain SVG without a
library: one that is embedded would weigh more than all else on the page (plotly: 4.5 MB).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from sau_bench.benchmark.report.curves import scored_rounds
from sau_bench.benchmark.report.lines import Line, names_of
from sau_bench.benchmark.report.style import Look
from sau_bench.benchmark.report.tables import SOUND
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
    """A mark at (x, y) in units of the panel; says what it is, and leads to a place on the page."""

    method: str
    x: float
    y: float
    says: str
    place: str = ""
    sound: bool = True


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
    """Panels with one legend: the styles of the methods, by label."""

    panels: Sequence[Panel]
    styles: Mapping[str, Style]


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
        values = MaxNLocator(4, steps=(1, 2, 5, 10)).tick_values(self.low, self.high)
        inside = [v for v in values if self.low - 1e-9 <= v <= self.high + 1e-9]
        object.__setattr__(self, "ticks", [(self(v), f"{v:g}") for v in inside])

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
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


def _limits(values: Iterable[float], least: float, least_width: float) -> tuple[float, float]:
    """The range of an axis that holds the values, some room about them, in whole numbers."""
    finite = [value for value in values if not np.isnan(value)] or [least]
    low, high = min(finite), max(finite)
    room = max(0.06 * (high - low), (least_width - (high - low)) / 2, 0.5)
    return max(float(np.floor(low - room)), least), float(np.ceil(high + room))


ASR_SCALE = Scale(-4, 104, HEIGHT - BOTTOM, TOP)


def trade_off(lines: Sequence[Line], styles: Mapping[str, Style]) -> Chart | None:
    """ACC against ASR of one (dataset, model) pair, a panel for each attack."""
    drawn = [
        line
        for line in lines
        if line.attack and {"acc", "asr"} <= line.scores.keys()
        if not np.isnan([line.scores["acc"].value, line.scores["asr"].value]).any()
    ]
    if not drawn:
        return None
    limits = _limits((line.scores["acc"].value for line in drawn), 0, 4)
    across = Scale(*limits, LEFT, WIDTH - RIGHT)
    panels = []
    for attack in dict.fromkeys(line.attack for line in drawn):
        points = [
            Point(
                line.defense,
                across(line.scores["acc"].value),
                ASR_SCALE(line.scores["asr"].value),
                f"{line.defense}: ACC {line.scores['acc'].text}, ASR {line.scores['asr'].text}",
                names_of(line.keys, 0)[0],
                line.state in SOUND,
            )
            for line in drawn
            if line.attack == attack
        ]
        axes = ("ACC (%)", "ASR (%)", across.ticks, ASR_SCALE.ticks)
        panels.append(Panel(attack, *axes, points))
    return _chart(panels, styles)


def learning_curves(rows: DataFrame, styles: Mapping[str, Style]) -> Chart | None:
    """ACC and ASR over rounds of one (dataset, model) pair, two panels for each attack.

    Means over seeds. Lines start at the undefended model, whose level is dashed.
    """
    rounds, victims = rows[scored_rounds(rows)], rows[rows["kind"] == "victim"]
    if rounds.empty:
        return None
    means = 100 * rounds.groupby(["attack", "defense", "step"], sort=False)[["acc", "asr"]].mean()
    starts = 100 * victims.groupby("attack", sort=False)[["acc", "asr"]].mean()
    accs = _limits([*means["acc"], *starts["acc"]], 0, 4)
    scales = {"acc": Scale(*accs, HEIGHT - BOTTOM, TOP), "asr": ASR_SCALE}
    keys = rounds.groupby(["attack", "defense"], sort=False)["key"].first()
    panels = []
    for attack, of_attack in means.groupby("attack", sort=False):
        longest = of_attack.index.get_level_values("step").max()
        across = Scale(0, longest, LEFT, WIDTH - RIGHT)
        for metric, up in scales.items():
            start = starts[metric].get(attack, np.nan)
            points, curves = [], []
            for defense, line in of_attack[metric].groupby("defense", sort=False):
                steps = line.droplevel(["attack", "defense"]).sort_index().dropna()
                scored = list(zip(map(float, steps.index), map(float, steps), strict=True))
                whole = scored if np.isnan(start) else [(0.0, float(start)), *scored]
                ends = " L".join(f"{across(x)} {up(y)}" for x, y in whole)
                curves.append(Curve(str(defense), f"M{ends}"))
                points += [
                    Point(
                        str(defense),
                        across(step),
                        up(value),
                        f"{defense}, round {step:g}: {metric.upper()} {value:.2f}",
                        names_of([keys[attack, defense]], 0)[0],
                    )
                    for number, (step, value) in enumerate(scored, start=1)
                    # Few enough to be told apart, and the last one.
                    if number % -(-len(scored) // MARKS) == 0 or number == len(scored)
                ]
            level = None if np.isnan(start) else up(start)
            label = f"{metric.upper()} (%)"
            axes = ("Round", label, across.ticks, up.ticks)
            panels.append(Panel(f"{attack}: {metric.upper()}", *axes, points, curves, level))
    return _chart(panels, styles)


def _chart(panels: Sequence[Panel], styles: Mapping[str, Style]) -> Chart:
    drawn = {point.method for panel in panels for point in panel.points}
    drawn |= {UNDEFENDED} if any(panel.level is not None for panel in panels) else set()
    return Chart(panels, {name: style for name, style in styles.items() if name in drawn})
