"""Figures from selected rows: trade-off, scores by method, DER; all axes in percent.

Learning curves and diagrams of ranks have files of their own. Every defense looks the same in all
figures (`benchmark.report.style`), and a metric has the same limits in all figures of a (dataset,
model) pair. Scores of models that are not sound (diverged, collapsed) are drawn hollow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from sau_bench.benchmark.published import AVERAGE
from sau_bench.benchmark.report.canvas import (
    COLUMN,
    NORMAL,
    PAGE,
    WORD,
    bands,
    beside,
    canvas,
    labelled,
    line_of,
    mark_of,
    measure,
    pages,
    sample,
    save,
    styled,
    ticks,
    titled,
    under,
    wrapped,
)
from sau_bench.benchmark.report.captions import (
    BETTER,
    bars_note,
    beyond_note,
    scatter_note,
)
from sau_bench.benchmark.report.curves import (
    curves,
    has_curves,
    has_risks,
    risk_curves,
    scored_rounds,
)
from sau_bench.benchmark.report.der import der_heatmap
from sau_bench.benchmark.report.render import MARKS, attack_titles
from sau_bench.benchmark.report.style import Look, looks, names_of
from sau_bench.benchmark.report.tables import SOUND, cell_states, labels_of, pivot
from sau_bench.benchmark.rows import UNDEFENDED

__all__ = ["Look", "draw", "looks", "save", "scored_rounds"]

SHARE = (-5.0, 105.0)
"""Limits of an axis of percentages of which all may occur; a mark at 0 is whole."""
DEPTH = 25.0
"""Points below the median that an axis of ACC shows: one broken model must not flatten the rest."""


def limits_of(rows: DataFrame, selected: DataFrame) -> dict[str, tuple[float, float]]:
    """Limits of the axes of ACC and ASR, in percent, for all figures of a (dataset, model) pair."""
    drawn = [selected["acc"], rows.loc[scored_rounds(rows), "acc"]]
    values = 100 * np.concatenate([part.dropna().to_numpy(float) for part in drawn])
    if not len(values):
        return {"acc": SHARE, "asr": SHARE}
    low, high = max(values.min(), np.median(values) - DEPTH), values.max()
    step = 1 if high - low < 4 else 5
    low, high = step * floor(low / step), step * ceil(high / step)
    room = 0.06 * max(high - low, 2)
    return {"acc": (low - room, high + room), "asr": SHARE}


def titles_of(selected: DataFrame, width: float) -> dict[str, str]:
    """The attacks with their titles over panels of `width` inches."""
    return {a: wrapped(t, width, NORMAL) for a, t in attack_titles(selected).items()}


def tallest(titles: Mapping[str, str], row: range) -> float:
    """Inches that the titles of a row of panels need above them."""
    lines = [*titles.values()][row.start : row.stop]
    return max(measure(title, NORMAL)[1] for title in lines) + 0.08


def by_cell(table: DataFrame) -> dict[tuple[str, str], float]:
    """Numbers by attack and defense."""
    lines = zip(table.index, table.to_numpy(float), strict=True)
    return {
        (str(a), str(d)): float(x) for a, line in lines for d, x in zip(table, line, strict=True)
    }


def clipped(values: DataFrame, low: float) -> tuple[DataFrame, str]:
    """ACC moved up to the edge of its axis, with a note of what was below."""
    below = {d: values.loc[values[d] < low, d] for d in values.columns[(values < low).any()]}
    return values.clip(lower=low), beyond_note("ACC", below)


@styled
def scatter(
    selected: DataFrame, looks: Mapping[str, Look], limits: Mapping[str, tuple[float, float]]
) -> Figure:
    """ACC against ASR of one (dataset, model) pair, a panel per attack; best is bottom right.

    Whiskers: standard deviation over seeds.
    """
    accs, beyond = clipped(100 * pivot(selected, "acc"), limits["acc"][0])
    acc, asr = by_cell(accs), by_cell(100 * pivot(selected, "asr"))
    stds = [by_cell(100 * pivot(selected, metric, "std")) for metric in ("acc", "asr")]
    sound = by_cell(cell_states(selected).isin(SOUND))
    attacks, defenses = labels_of(selected)
    width = COLUMN if len(attacks) <= 2 else PAGE
    rows = bands(len(attacks), 2 if width == COLUMN else 4)
    titles = titles_of(selected, (width - 0.5) / len(rows[0]) - 0.1)
    figure, axes = canvas(
        [len(row) for row in rows],
        1.25 if len(rows[0]) > 1 else 1.8,
        width=width,
        left=0.46,
        above=[tallest(titles, row) for row in rows],
        below=[*[0.16] * (len(rows) - 1), 0.3],
        handles=[sample(d, looks[d], ls="") for d in defenses],
        note=scatter_note(selected, beyond),
    )
    for attack, axis in zip(attacks, (axis for row in axes for axis in row), strict=True):
        for defense in defenses:
            look, cell = looks[defense], (attack, defense)
            marked(axis, acc[cell], asr[cell], look, bool(sound[cell]))
            whisker(axis, acc[cell], asr[cell], look, *(std[cell] for std in stds))
        axis.set(xlim=limits["acc"], ylim=limits["asr"], xticks=ticks(*limits["acc"], 5))
        axis.set_yticks((0, 50, 100), labels=None if axis in {r[0] for r in axes} else [])
        titled(axis, titles[attack])
    for row in axes:
        beside(figure, row, "ASR (%)\nlower is better")
    under(figure, axes[-1], BETTER["acc"], longest=axes[0])
    return figure


def marked(axis: Axes, x: float, y: float, look: Look, sound: bool = True) -> None:
    """The mark of a method; hollow where its model is not sound."""
    hollow = {} if sound else {"mfc": "none", "mec": look.colour, "mew": 0.8}
    style = mark_of(look, 5.0) | hollow
    line_of(axis, [x], [y], color=look.colour, ls="", clip_on=False, zorder=3, **style)


def whisker(
    axis: Axes, x: float, y: float, look: Look, across: float = np.nan, up: float = np.nan
) -> None:
    """A standard deviation to either side, where there is one."""
    for dx, dy in ((across, 0.0), (0.0, up)):
        if dx > 0 or dy > 0:
            line_of(axis, [x - dx, x + dx], [y - dy, y + dy], color=look.colour, lw=0.9)


@styled
def bars(
    selected: DataFrame, looks: Mapping[str, Look], limits: Mapping[str, tuple[float, float]]
) -> Figure:
    """ACC and ASR of one (dataset, model) pair: a line per defense, a column of panels per attack.

    Lines from the undefended model rather than bars from 0, beside which ACCs would look alike.
    """
    states, (attacks, defenses) = cell_states(selected), labels_of(selected)
    sound = by_cell(states.isin(SOUND))
    words = states.map(lambda state: MARKS.get(state, "-")).to_dict("index")
    width, names, left = labelled(defenses, len(attacks) <= 2)
    rows = bands(len(attacks), int((width - left) / 0.6))
    titles = titles_of(selected, (width - left) / len(rows[0]) - 0.1)
    line = max(0.135, max(measure(name)[1] for name in names) + 0.03)
    accs, beyond = clipped(100 * pivot(selected, "acc"), limits["acc"][0])
    scores = {"acc": by_cell(accs), "asr": by_cell(100 * pivot(selected, "asr"))}
    figure, axes = canvas(
        [len(row) for row in rows for _ in scores],
        line * len(defenses),
        width=width,
        left=left,
        above=[inches for row in rows for inches in (tallest(titles, row), 0.06)],
        below=[0.32] * 2 * len(rows),
        note=bars_note(selected, beyond),
    )
    for place, row in enumerate(axes):
        metric = tuple(scores)[place % 2]
        std = by_cell(100 * pivot(selected, metric, "std"))
        for axis, number in zip(row, rows[place // 2], strict=True):
            attack = attacks[number]
            start = scores[metric][attack, UNDEFENDED]
            ends = (-0.5, len(defenses) - 0.5)
            axis.hlines(range(len(defenses)), *limits[metric], color="0.9", lw=0.4, zorder=0)
            line_of(axis, [start, start], ends, color="black", ls="--", lw=0.7)
            for y, defense in enumerate(defenses):
                look, x = looks[defense], scores[metric][attack, defense]
                if np.isnan(x):
                    word, middle = str(words[attack][defense]), axis.get_yaxis_transform()
                    axis.text(0.5, y, word, **WORD, transform=middle)
                    continue
                stem = {"lw": 2.4, "alpha": 0.3, "solid_capstyle": "butt"}
                line_of(axis, [start, x], [y, y], color=look.colour, **stem)
                marked(axis, x, y, look, bool(sound[attack, defense]))
                whisker(axis, x, y, look, across=std[attack, defense])
            axis.grid(axis="y", visible=False)  # the lines above take less time
            axis.set_yticks(*((range(len(defenses)), names) if axis is row[0] else [()]))
            axis.set(xlim=limits[metric], ylim=ends[::-1])
            axis.set_xticks((0, 50, 100) if metric == "asr" else ticks(*limits["acc"], 3))
            if metric == "acc":
                titled(axis, titles[attack])
        under(figure, row, BETTER[metric])
    return figure


def draw(
    rows: DataFrame, selected: DataFrame, looks: Mapping[str, Look]
) -> dict[str, list[Figure]]:
    """Every figure of one (dataset, model) pair that its rows allow, by file name, in pages."""
    attacks, defenses = names_of(rows["attack"].unique()), names_of(rows["defense"].unique())
    rows, selected = (
        runs.assign(attack=runs["attack"].map(attacks), defense=runs["defense"].map(defenses))
        for runs in (rows, selected)
    )
    looks = {defenses.get(label, label): look for label, look in looks.items()}
    limits = limits_of(rows, selected)
    all_attacks, _ = labels_of(selected)

    def of(runs: DataFrame, attacks: Sequence[str]) -> DataFrame:
        return runs[runs["attack"].isin(attacks)]

    made = {
        "scatter": pages(lambda part: scatter(of(selected, part), looks, limits), all_attacks),
        "bars": pages(lambda part: bars(of(selected, part), looks, limits), all_attacks),
    }
    if selected["der"].notna().any():
        columns = [*all_attacks, AVERAGE]
        made["der"] = pages(lambda part: der_heatmap(selected, part), columns)
    if has_curves(rows):
        made["curves"] = pages(lambda part: curves(of(rows, part), looks, limits), all_attacks)
    if has_risks(rows):
        probed = rows.loc[scored_rounds(rows) & rows["adv_risk"].notna(), "attack"].unique()
        made["risks"] = pages(lambda part: risk_curves(of(rows, part), looks, limits), [*probed])
    return made
