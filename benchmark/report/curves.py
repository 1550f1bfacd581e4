"""Learning curves: ACC and ASR by round, and adversarial risks where they were measured (figures 1,
3 and 5 of the SAU paper)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from sau_bench.benchmark.report.canvas import (
    COLUMN,
    NORMAL,
    PAGE,
    bands,
    beside,
    canvas,
    line_of,
    mark_of,
    measure,
    sample,
    styled,
    ticks,
    titled,
    under,
    wrapped,
)
from sau_bench.benchmark.report.captions import beyond_note, curves_note
from sau_bench.benchmark.report.render import attack_titles
from sau_bench.benchmark.report.style import Look
from sau_bench.benchmark.rows import UNDEFENDED

SCORES = {"acc": "ACC (%)\nhigher is better", "asr": "ASR (%)\nlower is better"}
RISKS = SCORES | {
    "adv_risk": "Adversarial\nrisk (%)\nlower is better",
    "shared_risk": "Shared risk (%),\nSAU's search\nlower is better",
    "shared_risk_joint": "Shared risk (%),\nany search\nlower is better",
}
"""Columns of rows from top to bottom, and what their axes say."""
Line = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Steps, means and standard deviations (n - 1; NaN of a single value)."""
MARKED = 12
"""The most rounds of a curve that are all marked."""


def scored_rounds(rows: DataFrame) -> Series:
    """Which rows are points of a learning curve; a method that is not applicable has none."""
    return rows["kind"].eq("rounds") & rows["acc"].notna()


def has_curves(rows: DataFrame) -> bool:
    """Whether any defense was scored in more than one round on an attack."""
    rounds = rows[scored_rounds(rows)]
    return bool(rounds.groupby(["attack", "defense"])["step"].nunique().gt(1).any())


def last_of(rounds: DataFrame) -> float:
    """The last round; 1 where none was scored, as on a page of attacks without curves."""
    return float(rounds["step"].max()) if len(rounds) else 1.0


def limits_of_rounds(rounds: DataFrame) -> tuple[float, float]:
    """Limits of the axis of rounds, with room for marks at its ends."""
    last = last_of(rounds)
    return -0.06 * last, 1.06 * last


def has_risks(rows: DataFrame) -> bool:
    """Whether any round was measured with the probe "risk"."""
    return "adv_risk" in rows and bool(rows.loc[scored_rounds(rows), "adv_risk"].notna().any())


def curves(
    rows: DataFrame, looks: Mapping[str, Look], limits: Mapping[str, tuple[float, float]]
) -> Figure:
    """ACC and ASR over the rounds of one (dataset, model) pair, a column per attack.

    Lines are means over seeds; they start at the undefended model, dashed. Whiskers at marks are
    one standard deviation (n - 1) to either side. What was scored once is a mark alone.
    """
    return _panels(rows, rows[scored_rounds(rows)], SCORES, looks, limits)


def risk_curves(
    rows: DataFrame, looks: Mapping[str, Look], limits: Mapping[str, tuple[float, float]]
) -> Figure:
    """The same with adversarial risks below, for the attacks with the probe "risk".

    All adversarial examples of the undefended model are shared.
    """
    rounds = rows[scored_rounds(rows) & rows["adv_risk"].notna()]
    before = rounds.groupby(["attack", "seed"])["risk_before"].first().rename("before")
    there = rows[rows["attack"].isin(rounds["attack"])].join(before, on=["attack", "seed"])
    risks = {metric: there["before"] for metric in RISKS if metric not in SCORES}
    victims = there["kind"].eq("victim")
    there = there.assign(**{m: there[m].where(~victims, r) for m, r in risks.items()})
    return _panels(there, rounds, RISKS, looks, limits)


@styled
def _panels(
    rows: DataFrame,
    rounds: DataFrame,
    metrics: Mapping[str, str],
    looks: Mapping[str, Look],
    limits: Mapping[str, tuple[float, float]],
) -> Figure:
    """A row of panels for each metric, a column for each attack; all defenses of `rounds`."""
    victims = rows[rows["kind"] == "victim"]
    titles = attack_titles(victims.assign(victim_status=victims["status"]))
    starts = statistics(victims, ["attack"], metrics)
    lines = statistics(rounds, ["attack", "defense"], metrics)
    attacks, defenses = list(titles), [*dict.fromkeys(rounds["defense"])]
    width = COLUMN if len(attacks) == 1 else PAGE
    left = 0.36 + 0.11 * max(label.count("\n") for label in metrics.values())
    columns = bands(len(attacks), 7)
    room = (width - left) / len(columns[0]) - 0.1
    heads = {attack: wrapped(title, room, NORMAL) for attack, title in titles.items()}
    above = [max(measure(heads[attacks[i]], NORMAL)[1] for i in band) + 0.08 for band in columns]
    rest = [0.1] * (len(metrics) - 1)
    level = sample(UNDEFENDED, looks[UNDEFENDED], marker="")
    figure, axes = canvas(
        [len(band) for band in columns for _ in metrics],
        1.1,
        width=width,
        left=left,
        above=[inches for head in above for inches in (head, *rest)],
        below=[*[0.0] * (len(metrics) - 1), 0.32] * len(columns),
        handles=[*(sample(d, looks[d]) for d in defenses), level],
        note=curves_note(rows, scored_counts(rows, rounds, attacks), beyond(starts, lines, limits)),
    )
    last, bottom = last_of(rounds), list(metrics)[-1]
    for place, row in enumerate(axes):
        metric = list(metrics)[place % len(metrics)]
        low, high = limits.get(metric, limits["asr"])
        up = ticks(low, high) if metric == "acc" else [0, 50, 100]
        for axis, number in zip(row, columns[place // len(metrics)], strict=True):
            attack = attacks[number]
            _, level_of, _ = starts[(attack,)][metric]
            start = float(level_of[0]) if len(level_of) else np.nan
            line_of(axis, [-last, 2 * last], [start] * 2, color="black", ls="--", lw=0.8)
            for turn, defense in enumerate(defenses):
                if (attack, defense) in lines:
                    aside = 0.08 * last * ((turn + 0.5) / len(defenses) - 0.5)
                    line = lines[attack, defense][metric]
                    _curve(axis, line, start, looks[defense], low, aside)
            axis.set(xlim=limits_of_rounds(rounds), ylim=(low, high))
            axis.set_xticks(ticks(0, last, 3), labels=None if metric == bottom else [])
            axis.set_yticks(up, labels=None if axis is row[0] else [])
            if metric == "acc":
                titled(axis, heads[attack])
        beside(figure, row, metrics[metric])
        if metric == bottom:
            under(figure, row, "Round")
    return figure


def statistics(
    rows: DataFrame, by: list[str], metrics: Iterable[str]
) -> dict[tuple[str, ...], dict[str, Line]]:
    """The line of each metric, in percent, for each group of rows."""
    names = list(metrics)
    both = 100 * rows.groupby([*by, "step"])[names].agg(["mean", "std"])
    found: dict[tuple[str, ...], dict[str, Line]] = {}
    for group, part in both.groupby(level=by):
        steps, numbers = part.index.get_level_values("step").to_numpy(float), part.to_numpy()
        labels = group if isinstance(group, tuple) else (group,)
        lines = found.setdefault(tuple(map(str, labels)), {})
        for place, name in enumerate(names):
            means, stds = numbers[:, 2 * place], numbers[:, 2 * place + 1]
            there = ~np.isnan(means)
            lines[name] = (steps[there], means[there], stds[there])
    return found


def _curve(axis: Axes, line: Line, start: float, look: Look, low: float, aside: float) -> None:
    """Means by round, from round 0 if more than one was scored; standard deviations at marks.

    aside: by how many rounds whiskers are moved, so that those of two methods can be told apart.
    """
    steps, means, stds = line
    marks = [*range(len(steps) - 1, -1, -max(1, len(steps) // MARKED))]
    means = means.clip(min=low)
    if len(marks) > 1:
        aside *= min(1.0, (steps[marks[0]] - steps[marks[1]]) / (0.1 * steps[-1]))
    for mark in marks:
        if stds[mark] > 0:
            ends = [means[mark] - stds[mark], means[mark] + stds[mark]]
            line_of(axis, [steps[mark] + aside] * 2, ends, color=look.colour, lw=0.9)
    style = mark_of(look, 4.0) | {"color": look.colour, "lw": 1.1, "ls": look.line}
    if len(steps) < 2:
        line_of(axis, steps, means, clip_on=False, zorder=3, **style | {"ls": ""})
        return
    x, y = np.r_[0.0, steps], np.r_[max(start, low), means]
    line_of(axis, x, y, clip_on=False, markevery=[mark + 1 for mark in marks], **style)


def beyond(
    starts: Mapping[tuple[str, ...], Mapping[str, Line]],
    lines: Mapping[tuple[str, ...], Mapping[str, Line]],
    limits: Mapping[str, tuple[float, float]],
) -> str:
    """A note of the levels and lines of ACC that leave the axis; see `statistics`."""
    low = limits["acc"][0]
    below: dict[str, list[float]] = {}
    for defense, metrics in [
        *((UNDEFENDED, line) for line in starts.values()),
        *((defense, line) for (_, defense), line in lines.items()),
    ]:
        means = metrics["acc"][1]
        if (means < low).any():
            below.setdefault(defense, []).append(float(means.min()))
    return beyond_note("ACC", below)


def scored_counts(rows: DataFrame, rounds: DataFrame, attacks: list[str]) -> DataFrame:
    """Attacks x defenses of `rows`, at how many steps each cell of `rounds` was scored."""
    defenses = [d for d in rows["defense"].unique() if d != UNDEFENDED]
    counts = rounds.groupby(["attack", "defense"])["step"].nunique().unstack()
    return counts.reindex(index=attacks, columns=defenses).fillna(0).astype(int)
