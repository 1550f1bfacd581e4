"""Figures from selected rows: trade-off, DER, learning curves, bars; all axes in percent.

Every defense keeps one colour and marker over all figures (`looks`). Scores of models that are not
sound (diverged, collapsed) are drawn hollow or hatched.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from pandas import DataFrame

from benchmark.tables import ABSENT, MARKS, SOUND, UNDEFENDED, counted, labels, pivot, statuses

STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    "pdf.fonttype": 42,  # outlines of Type 3 fonts are refused by some publishers
    "grid.linewidth": 0.5,
}
MARKERS = "osD^vP*X<>ph"
styled = mpl.rc_context(STYLE)


class Look(NamedTuple):
    """How a defense is drawn."""

    colour: tuple[float, float, float]
    marker: str


def looks(rows: DataFrame) -> dict[str, Look]:
    """A look for every defense in order of appearance; the undefended model is black."""
    defenses = [d for d in rows["defense"].unique() if d != UNDEFENDED]
    styles = zip(defenses, cycle(sns.color_palette("colorblind")), cycle(MARKERS), strict=False)
    return {UNDEFENDED: Look((0.0, 0.0, 0.0), "d")} | {d: Look(c, m) for d, c, m in styles}


def canvas(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure of rows x columns panels of `width` x `height` inches, and the array of its axes."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global to choose, nothing to close
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")


def save(figure: Figure, stem: Path) -> list[Path]:
    """`stem`.pdf and `stem`.png, without dates, so that the same rows give the same bytes."""
    written = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        path = stem.with_name(stem.name + suffix)
        figure.savefig(path, dpi=200, metadata=metadata)
        written.append(path)
    return written


def named(selected: DataFrame) -> dict[str, str]:
    """The label of every attack, with an asterisk where its victim is not sound."""
    kept = counted(selected)
    return {a: a if a in kept else f"{a}*" for a in labels(selected, "acc")[0]}


def legend(figure: Figure, handles: list[Any], columns: int) -> None:
    """One legend below all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


@styled
def scatter(selected: DataFrame, looks: Mapping[str, Look]) -> Figure:
    """ACC against ASR of one (dataset, model) pair, a panel per attack; best is bottom right."""
    acc, asr = 100 * pivot(selected, "acc"), 100 * pivot(selected, "asr")
    states, titles = statuses(selected), named(selected)
    columns = min(4, len(titles))
    figure, axes = canvas(-(-len(titles) // columns), columns, max(1.9, 3.6 / columns), 1.9)
    for axis, (attack, title) in zip(axes.flat, titles.items(), strict=False):
        for defense in acc.columns:
            look, sound = looks[defense], states.at[attack, defense] in SOUND
            face = look.colour if sound else "none"
            point = acc.at[attack, defense], asr.at[attack, defense]
            axis.plot(*point, look.marker, color=look.colour, mfc=face, ms=6, mew=0.8, alpha=0.85)
        axis.set(title=title, ylim=(-5, 105))
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    figure.supxlabel("ACC (%)", fontsize="medium")
    figure.supylabel("ASR (%)", fontsize="medium")
    handles = [Line2D([], [], ls="", label=d, color=looks[d].colour, marker=looks[d].marker) for d in acc]
    legend(figure, handles, 4)
    return figure


@styled
def der_heatmap(selected: DataFrame) -> Figure:
    """DER of one (dataset, model) pair, attacks and their Average x defenses."""
    scores, states = 100 * pivot(selected, "der"), statuses(selected)
    states.loc["Average"] = "ok"
    text = DataFrame("", index=scores.index, columns=scores.columns)
    for attack, defense in scores.stack(future_stack=True).index:
        ...
    return figure
