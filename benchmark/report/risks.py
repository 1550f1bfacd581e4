"""The figure of adversarial risks by round, from rows with the probe "risk" (figures 1, 3 and 5 of
the SAU paper)."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from sau_bench.benchmark.report.figures import (
    Look,
    canvas,
    legend,
    sample,
    scored_rounds,
    styled,
)
from sau_bench.benchmark.report.render import attack_titles
from sau_bench.benchmark.rows import UNDEFENDED

PANELS = {
    "acc": "ACC (%)",
    "asr": "ASR (%)",
    "adv_risk": "Adversarial\nrisk (%)",
    "shared_risk": "Shared risk,\nSAU's search (%)",
    "shared_risk_joint": "Shared risk,\nany search (%)",
}
"""Columns from top to bottom, and what their axes say."""


def has_risks(rows: DataFrame) -> bool:
    """Whether any round was measured with the probe "risk"."""
    return "adv_risk" in rows and bool(rows.loc[scored_rounds(rows), "adv_risk"].notna().any())


@styled
def risk_curves(rows: DataFrame, looks: Mapping[str, Look]) -> Figure:
    """ACC, ASR and adversarial risks over the rounds of one (dataset, model) pair.

    A column per attack. Lines are means over seeds, bands one standard deviation (n - 1) to either
    side where there are several; lines start at the undefended model, dashed, whose adversarial
    examples are all shared.
    """
    victims = rows[rows["kind"] == "victim"]
    rounds = rows[scored_rounds(rows) & rows["adv_risk"].notna()]
    titles = attack_titles(victims.assign(victim_status=victims["status"]))
    titles = {attack: t for attack, t in titles.items() if (rounds["attack"] == attack).any()}
    defenses = rounds["defense"].unique()
    figure, axes = canvas(len(PANELS), len(titles), max(1.6, 3.4 / len(titles)), 1.3)
    for column, (attack, title) in enumerate(titles.items()):
        here = rounds[rounds["attack"] == attack]
        for axis, metric in zip(axes[:, column], PANELS, strict=True):
            undefended = victims[victims["attack"] == attack]
            start = undefended[metric] if metric in ("acc", "asr") else here["risk_before"]
            level = 100 * float(start.mean())
            axis.axhline(level, color=looks[UNDEFENDED].colour, ls="--", lw=1)
            for defense in defenses:
                runs = here[here["defense"] == defense]
                line = 100 * runs.groupby("step")[metric].agg(["mean", "std"]).dropna(subset="mean")
                line.loc[0] = (level, 0.0)
                line, (colour, marker) = line.sort_index(), looks[defense]
                spread = line["std"].fillna(0.0)
                axis.plot(line["mean"], color=colour, marker=marker, markevery=[-1], lw=1.2)
                low, high = line["mean"] - spread, line["mean"] + spread
                axis.fill_between(line.index, low, high, color=colour, alpha=0.2, lw=0)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=(1, 2, 5, 10)))
            if metric != "acc":
                axis.set(ylim=(-8, 108), yticks=(0, 50, 100))
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("Round")
    for axis, label in zip(axes[:, 0], PANELS.values(), strict=True):
        axis.set_ylabel(label)
    level_sample = sample(UNDEFENDED, looks[UNDEFENDED]._replace(marker=""), ls="--")
    legend(figure, [*(sample(d, looks[d]) for d in defenses), level_sample])
    return figure
