"""What a report says about one (dataset, model) pair, before it is written as text or as a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pandas import DataFrame

from sau_bench.benchmark.report.costs import cost_table, effect_table, published_times
from sau_bench.benchmark.report.layout import published_tables
from sau_bench.benchmark.report.norms import norm_table
from sau_bench.benchmark.report.published import Published
from sau_bench.benchmark.report.render import (
    METRICS,
    Table,
    averages_table,
    metric_table,
    trigger_table,
)

FIGURES = {
    "scatter": "ACC against ASR of each defense, by attack; the best is at the bottom right.",
    "bars": "ACC and ASR of each defense, by attack.",
    "der": "DER of each defense, by attack; a defense that changes nothing has 50 %.",
    "curves": "ACC and ASR over the rounds of each defense, by attack; dashed: the undefended "
    "model, where every line starts.",
    "risks": "ACC, ASR and adversarial risks over the rounds of each defense, by attack; dashed: "
    "the undefended model.",
    "critical": "Mean ranks of the defenses by DER, the best on the left; a bar joins defenses "
    "that chance cannot tell apart.",
}
"""The captions of figures, by file name."""
NEEDS = {"der": {"der"}, "critical": {"der"}, "risks": {"asr"}}
"""Metrics without which a figure is left out; of the others ACC and ASR."""


@dataclass(frozen=True)
class Pair:
    """One (dataset, model) pair: its rows, and what was made of them.

    rows: all of its attacks. selected: those that count. clean: of models trained on clean data.
    tables, beside: by file name, `beside` those with published numbers. figures: by file
    name, their PNGs page by page, seen from the folder of the report. no_test: why there are no
    tests, or "".
    """

    dataset: str
    model: str
    rows: DataFrame
    selected: DataFrame
    clean: DataFrame
    tables: Mapping[str, Table]
    beside: Mapping[str, Table]
    figures: Mapping[str, Sequence[str]]
    no_test: str

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.model}"

    def caption(self, figure: str) -> str:
        """What stands below a figure; name: of its file."""
        seeds = sorted(self.selected["seed"].unique())
        over = f" {len(seeds)} seeds." if len(seeds) > 1 else ""
        return f"{FIGURES[figure]} {self.title}.{over}"


def wanted(figure: str, shown: Sequence[str]) -> bool:
    """Whether a figure, by file name, shows only metrics that are shown."""
    return NEEDS.get(figure, {"acc", "asr"}) <= {*shown}


def build(
    rows: DataFrame,
    selected: DataFrame,
    clean: DataFrame,
    effective_acc: float | None,
    shown: Sequence[str] = tuple(METRICS),
) -> dict[str, Table]:
    """Every table of one (dataset, model) pair that its rows allow, by file name.

    `rows` are all rows of its attacks, `selected` those that count, `clean` those of models that
    were trained on clean data; `shown` are metrics.
    """
    # Without any score, the table of ACC still says which runs failed, and why.
    metrics = [m for m in shown if selected[m].notna().any()] or [*shown[:1]]
    made = {metric: metric_table(selected, metric) for metric in metrics}
    if "acc" in made and clean["acc"].notna().any():
        scores = " / ".join(f"{100 * acc:.2f}" for acc in clean["acc"].dropna())
        note = f"A model trained on clean data by the same recipe: {scores}."
        made["acc"] = metric_table(selected, "acc", (note,))
    every: dict[str, Table | None] = {
        "averages": averages_table(selected, shown),
        **made,
        "triggers": trigger_table(selected, shown),
        "cost": cost_table(rows),
        "effect": effect_table(rows, selected, effective_acc),
    }
    return {name: table for name, table in every.items() if table}


def compared(
    made: Mapping[str, Table],
    rows: DataFrame,
    selected: DataFrame,
    published: Published | None,
    norms: DataFrame | None,
    shown: Sequence[str] = tuple(METRICS),
) -> dict[str, Table]:
    """The tables of the paper that the rows of one (dataset, model) pair are of, by file name.

    `made` are those of `build`; `norms` are of triggers, see `benchmark.report.norms`.
    """
    every: dict[str, Table | None] = {}
    if published is not None:
        every |= published_tables(published, rows, selected, shown)
        if "effect" in made:
            every["table7"] = published_times(made["effect"], selected, published)
    if norms is not None:
        every["table11"] = norm_table(norms, selected, published)
    return {name: table for name, table in every.items() if table}


def title_of(table: str) -> str:
    """The heading of a table, by its file name: `table3` is "Table 3"."""
    words = re.sub(r"^table(\d+)$", r"table \1", table).replace("_", " ")
    return METRICS.get(table, words[:1].upper() + words[1:])
