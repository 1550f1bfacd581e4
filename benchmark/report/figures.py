"""Figures from selected rows: trade-off, DER, learning curves, bars; all axes in percent.

Every defense keeps one colour and marker over all figures (`looks`). Scores of models that are not
sound (diverged, collapsed) are drawn hollow or hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from sau_bench.benchmark.report.render import MARKS, METRICS, attack_titles
from sau_bench.benchmark.report.tables import ABSENT, SOUND, cell_states, labels_of, pivot
from sau_bench.benchmark.rows import UNDEFENDED

STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    "pdf.fonttype": 42,  # outlines of Type 3 fonts are refused by some publishers
    "grid.linewidth": 0.5,
}
MARKERS = "osD^vP*X<>ph"
DPI = 150
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
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global to choose, nothing to close
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """`stem`.pdf and `stem`.png, without dates, so that the same rows give the same bytes."""
    written = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    if layout := figure.get_layout_engine():  # once for both: it takes longer than the drawing
        layout.execute(figure)
        figure.set_layout_engine("none")
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        path = stem.with_name(stem.name + suffix)
        figure.savefig(path, dpi=DPI, metadata=metadata)
        written.append(path)
    return written


def sample(label: str, look: Look, **style: Any) -> Line2D:
    """The entry of a legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, ms=5, label=label, **style)


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend below all panels, in as few rows as the width allows."""
    rows = ceil(len(handles) * 1.15 / figure.get_figwidth())
    columns = ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def seeds_entry(selected: DataFrame, what: str) -> list[Artist]:
    """The entry of a legend that says what stands for several seeds; none for a single one."""
    seeds = selected["seed"].nunique()
    return [Line2D([], [], ls="", label=f"{what}, n = {seeds}")] if seeds > 1 else []


@styled
def scatter(selected: DataFrame, looks: Mapping[str, Look]) -> Figure:
    """ACC against ASR of one (dataset, model) pair, a panel per attack; best is bottom right.

    Whiskers: standard deviation over seeds.
    """
    acc, asr = 100 * pivot(selected, "acc"), 100 * pivot(selected, "asr")
    stds = [100 * pivot(selected, metric, "std") for metric in ("acc", "asr")]
    states, titles = cell_states(selected), attack_titles(selected)
    columns = min(4, len(titles))
    figure, axes = canvas(ceil(len(titles) / columns), columns, max(1.9, 3.6 / columns), 1.9)
    for axis, (attack, title) in zip(axes.flat, titles.items(), strict=False):
        for defense in acc.columns:
            look, sound = looks[defense], states.at[attack, defense] in SOUND
            face = look.colour if sound else "none"
            point = acc.at[attack, defense], asr.at[attack, defense]
            axis.plot(*point, look.marker, color=look.colour, mfc=face, ms=6, mew=0.8, alpha=0.85)
            across, up = (std.loc[[attack], defense].to_numpy(float) for std in stds)
            if not np.isnan(across).any():
                axis.errorbar(*point, up, across, fmt="none", ecolor=look.colour, elinewidth=0.8)
        axis.margins(x=0.15)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
        axis.set(title=title, xlabel="ACC (%)", ylim=(-8, 108))
    for axis in axes[:, 0]:
        axis.set_ylabel("ASR (%)")
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    entries = [sample(d, looks[d], ls="") for d in acc.columns]
    legend(figure, [*entries, *seeds_entry(selected, "± std")])
    return figure


@styled
def der_heatmap(selected: DataFrame) -> Figure:
    """DER of one (dataset, model) pair, attacks and their Average x defenses.

    Of several seeds with the standard deviation.
    """
    scores, titles = 100 * pivot(selected, "der"), attack_titles(selected)
    states = cell_states(selected).reindex_like(scores).fillna("ok")
    marks = states.map(lambda state: MARKS.get(state, ""))
    stds = 100 * pivot(selected, "der", "std")
    below = stds.map(lambda std: "" if np.isnan(std) else f"\n± {std:.1f}")
    text = scores.map("{:.1f}".format).replace("nan", "-") + marks + below
    text = text.where(~states.isin(ABSENT), marks)
    seeds = selected["seed"].nunique()
    line = 0.3 if seeds == 1 else 0.45
    width, height = (max(3.6, 0.58 * scores.shape[1] + 1.8), line * scores.shape[0] + 1.0)
    figure, axes = canvas(1, 1, width, height)
    axis = axes[0, 0]
    axis.set_facecolor("0.9")
    sns.heatmap(
        scores.rename(index=titles),
        annot=text,
        fmt="",
        cmap="Blues",
        vmin=min(50.0, scores.min().min()),
        vmax=100,
        linewidths=0.5,
        cbar_kws={"label": "DER (%)"},
        ax=axis,
    )
    for row, column in np.argwhere(scores.isna().to_numpy()):  # seaborn leaves empty cells blank
        axis.text(column + 0.5, row + 0.5, text.iat[row, column], ha="center", va="center")
    axis.axhline(len(titles), color="white", lw=3)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(rotation=0)
    axis.grid(visible=False)
    return figure


def scored_rounds(rows: DataFrame) -> Series:
    """Which rows are points of a learning curve; a method that is not applicable has none."""
    return rows["kind"].eq("rounds") & rows["acc"].notna()


@styled
def curves(rows: DataFrame, looks: Mapping[str, Look]) -> Figure:
    """ACC and ASR over the rounds of one (dataset, model) pair, a column per attack.

    Lines are means over seeds, bands their range; the dashed line is the undefended model, where
    every line starts at step 0.
    """
    victims, rounds = rows[rows["kind"] == "victim"], rows[scored_rounds(rows)]
    titles = attack_titles(victims.assign(victim_status=victims["status"]))
    defenses = rounds["defense"].unique()
    figure, axes = canvas(2, len(titles), max(1.45, 3.4 / len(titles)), 1.6)
    for column, (attack, title) in enumerate(titles.items()):
        for axis, metric in zip(axes[:, column], ("acc", "asr"), strict=True):
            start = 100 * victims.loc[victims["attack"] == attack, metric].mean()
            axis.axhline(start, color=looks[UNDEFENDED].colour, ls="--", lw=1)
            for defense in defenses:
                runs = rounds[(rounds["attack"] == attack) & (rounds["defense"] == defense)]
                line = 100 * runs.groupby("step")[metric].agg(["mean", "min", "max"]).dropna()
                line.loc[0] = start
                line, (colour, marker) = line.sort_index(), looks[defense]
                axis.plot(line["mean"], color=colour, marker=marker, markevery=[-1], lw=1.2)
                if (line["min"] < line["max"]).any():  # several seeds
                    band = line.index, line["min"], line["max"]
                    axis.fill_between(*band, color=colour, alpha=0.2)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=(1, 2, 5, 10)))
        axes[0, column].set_title(title)
        axes[0, column].yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
        axes[1, column].set(xlabel="Round", ylim=(-8, 108), yticks=(0, 50, 100))
    axes[0, 0].set_ylabel("ACC (%)")
    axes[1, 0].set_ylabel("ASR (%)")
    level = sample(UNDEFENDED, looks[UNDEFENDED]._replace(marker=""), ls="--")
    entries = [*(sample(d, looks[d]) for d in defenses), level]
    legend(figure, [*entries, *seeds_entry(rows, "range")])
    return figure


@styled
def bars(selected: DataFrame, looks: Mapping[str, Look]) -> Figure:
    """ACC and ASR of one (dataset, model) pair, a group of bars per attack; whiskers: std."""
    states, titles = cell_states(selected), attack_titles(selected)
    defenses = labels_of(selected)[1]
    step = min(0.85 / len(defenses), 0.2)
    longest = max(len(line) for title in titles.values() for line in title.split("\n"))
    # Wide enough for the bars of an attack and for its name under them.
    group = max(0.1 * (len(defenses) + 2), 0.08 * longest)
    width = max(3.6, group * len(titles) + 0.8)
    figure, axes = canvas(2, 1, width, 1.6)
    for axis, metric in zip(axes.flat, ("acc", "asr"), strict=True):
        mean, std = (100 * pivot(selected, metric, how) for how in ("mean", "std"))
        for index, defense in enumerate(defenses):
            places = np.arange(len(titles)) + (index - (len(defenses) - 1) / 2) * step
            columns = (table[defense] for table in (mean, std, states))
            for place, height, spread, state in zip(places, *columns, strict=False):
                if np.isnan(height):  # an absent bar would read as zero
                    axis.text(place, 2, MARKS.get(state, "-"), rotation=90, ha="center", size=6)
                    continue
                axis.bar(
                    place,
                    height,
                    0.9 * step,
                    yerr=None if np.isnan(spread) else spread,
                    color=looks[defense].colour,
                    hatch="" if state in SOUND else "/////",
                    edgecolor="white",
                    linewidth=0,
                    error_kw={"lw": 0.8},
                )
        axis.grid(axis="x", visible=False)
        axis.set(ylabel=f"{METRICS[metric]} (%)", ylim=(0, 105), xlim=(-0.6, len(titles) - 0.4))
        axis.set_xticks(range(len(titles)), list(titles.values()))
    entries = [Patch(color=looks[d].colour, label=d) for d in defenses]
    legend(figure, [*entries, *seeds_entry(selected, "± std")])
    return figure


def draw(rows: DataFrame, selected: DataFrame, looks: Mapping[str, Look]) -> dict[str, Figure]:
    """Every figure of one (dataset, model) pair that its rows allow, by file name."""
    made = {"scatter": scatter(selected, looks), "bars": bars(selected, looks)}
    if selected["der"].notna().any():
        made["der"] = der_heatmap(selected)
    if scored_rounds(rows).any():
        made["curves"] = curves(rows, looks)
    return made
