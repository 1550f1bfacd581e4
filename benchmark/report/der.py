"""The heat map of the defense effectiveness rating (DER)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from pandas import DataFrame

from sau_bench.benchmark.published import AVERAGE
from sau_bench.benchmark.report.canvas import (
    SMALL,
    WORD,
    bands,
    canvas,
    labelled,
    measure,
    styled,
    wrapped,
)
from sau_bench.benchmark.report.captions import der_note
from sau_bench.benchmark.report.render import MARKS, attack_titles
from sau_bench.benchmark.report.tables import ABSENT, cell_states, pivot

SHADES = sns.light_palette("#6699CC", as_cmap=True)
"""Colours of DER, all light enough for black text."""


@styled
def der_heatmap(selected: DataFrame, shown: Sequence[str]) -> Figure:
    """DER of one (dataset, model) pair, defenses x attacks and their Average.

    Of several seeds with the standard deviation. shown: attacks, and AVERAGE.
    """
    titles = {name: (attack_titles(selected) | {AVERAGE: AVERAGE})[name] for name in shown}
    scores = 100 * pivot(selected, "der").loc[list(shown)]
    states = cell_states(selected).reindex_like(scores).fillna("ok")
    marks = states.map(lambda state: MARKS.get(state, ""))
    stds = 100 * pivot(selected, "der", "std").loc[list(shown)]
    below = stds.map(lambda std: "" if np.isnan(std) else f"\n± {std:.1f}")
    text = scores.map("{:.1f}".format).replace("nan", "-") + marks + below
    text = text.where(~states.isin(ABSENT), marks)
    width, names, left = labelled(map(str, scores), len(titles) <= 4)
    columns = bands(len(titles), int((width - left) / 0.4))
    cell = (width - left - 0.08) / len(columns[0])
    heads = [wrapped(title, cell - 0.04) for title in titles.values()]
    sizes = [measure(text)[1] for text in [*names, *text.to_numpy().ravel()]]
    head = max(measure(title)[1] for title in heads) + 0.06
    figure, axes = canvas(
        [1] * len(columns),
        (max(sizes) + 0.08) * scores.shape[1],
        width=width,
        left=left,
        above=[head] * len(columns),
        below=[0.08] * len(columns),
        note=der_note(selected),
    )
    for (axis,), band in zip(axes, columns, strict=True):
        place = axis.get_position()
        axis.set_position((place.x0, place.y0, cell * len(band) / width, place.height))
        axis.set_facecolor("0.9")
        values, texts = scores.iloc[list(band)].T, text.iloc[list(band)].T
        sns.heatmap(
            values,
            vmin=min(50.0, scores.min().min()),
            vmax=100,
            cmap=SHADES,
            annot=texts,
            fmt="",
            annot_kws={"size": SMALL, "color": "black"},
            linewidths=0.5,
            cbar=False,
            ax=axis,
        )
        for row, column in np.argwhere(values.isna().to_numpy()):  # seaborn leaves these blank
            axis.text(column + 0.5, row + 0.5, str(texts.iat[row, column]), **WORD)
        axis.xaxis.tick_top()
        axis.set_xticks([i + 0.5 for i in range(len(band))], [heads[i] for i in band], rotation=0)
        axis.set_yticks([i + 0.5 for i in range(len(names))], names, rotation=0)
        axis.set(xlabel="", ylabel="")
        axis.grid(visible=False)
        if band[-1] == len(titles) - 1 and shown[-1] == AVERAGE:
            axis.axvline(len(band) - 1, color="white", lw=3)
    return figure
