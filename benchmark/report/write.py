"""Rows to files: every table as CSV, Markdown and LaTeX, every figure as PDF and PNG, one report.

Reads `rows.csv` only: no weights, no GPU, no torch. The same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report import figures, tables
from sau_bench.benchmark.report.costs import cost_table, effect_table, published_times
from sau_bench.benchmark.report.critical import critical_difference
from sau_bench.benchmark.report.layout import published_tables
from sau_bench.benchmark.report.norms import norm_table, read_norms
from sau_bench.benchmark.report.published import Published
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.remarks import attention, notes, pointer, provenance
from sau_bench.benchmark.report.render import (
    METRICS,
    Table,
    averages_table,
    metric_table,
    trigger_table,
)
from sau_bench.benchmark.report.significance import paired_table, paired_tests, why_no_test


def report(
    folder: Path,
    rules: Mapping[str, str],
    effective_acc: float | None = None,
    average_collapsed: bool = False,
    published: Published | None = None,
) -> list[Path]:
    """Write tables, figures and `report.md` of `folder/rows.csv` into `folder`; returns the files.

    `rules` maps a defense's label to the selection rule (`benchmark.report.tables`) that replaces
    the one in the rows. `average_collapsed`: averages include collapsed victims. `published`: what
    the rows are compared with. Where `measurements/trigger_norms.py` has put `trigger_norms.csv`
    beside the rows, there is a table of trigger norms. With several (dataset, model) pairs, a pair
    has subfolders.

    Raises:
        InputError: a file that is no table of rows, or an unknown rule.
    """
    rows, norms = read_rows(folder / "rows.csv"), read_norms(folder / "trigger_norms.csv")
    if average_collapsed:
        rows = tables.keep_collapsed(rows)
    attacked = rows["kind"] != "clean"
    try:
        selected = tables.select(rows[attacked], rules)
    except ValueError as error:
        raise InputError(f"{folder / 'rows.csv'}: {error}") from error
    written: list[Path] = []
    pairs, looks = selected.groupby(["dataset", "model"], sort=False), figures.looks(rows[attacked])
    results: list[str] = []
    for (dataset, model), chosen in pairs:
        here = (rows["dataset"] == dataset) & (rows["model"] == model)
        steps, clean = rows[here & attacked], rows[here & ~attacked]
        name = re.sub(r"[^a-z0-9]+", "-", f"{dataset} {model}".lower()).strip("-")
        place = name if len(pairs) > 1 else ""
        results.append(f"## {dataset}, {model}")
        made = build(steps, chosen, clean, effective_acc)
        made |= compared(made, steps, chosen, published, norms)
        drawn = figures.draw(steps, chosen, looks)
        if tests := paired_tests(chosen):
            made["tests"] = paired_table(chosen, tests)
            drawn["critical"] = critical_difference(tests, looks)
        for name, table in made.items():
            results += [f"### {_title(name)}", table.markdown().strip()]
            written += save(table, folder / "tables" / place / name)
        if chosen["der"].notna().any() and (why := why_no_test(chosen)):
            results += ["### Tests", why]
        for name, figure in drawn.items():
            written += figures.save(figure, folder / "figures" / place / name)
            results.append(f"![{name}]({written[-1].relative_to(folder).as_posix()})")
    optional = [*(folder / "tables").rglob("*.*"), *(folder / "figures").rglob("critical.*")]
    for file in set(optional) - set(written):
        file.unlink()  # a table or figure that these rows no longer have
    written.append(folder / "report.md")
    runs = pd.concat([selected, rows[~attacked]]) if (~attacked).any() else selected
    parts = [f"# {folder.name}", *pointer(runs), *results]
    parts += [*attention(runs), *provenance(rows, selected), *notes(runs)]
    written[-1].write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return written


def build(
    rows: DataFrame,
    selected: DataFrame,
    clean: DataFrame,
    effective_acc: float | None,
) -> dict[str, Table]:
    """Every table of one (dataset, model) pair that its rows allow, by file name.

    `rows` are all rows of its attacks, `selected` those that count, `clean` those of models that
    were trained on clean data.
    """
    # Without any score, the table of ACC still says which runs failed, and why.
    metrics = [m for m in METRICS if selected[m].notna().any()] or ["acc"]
    made = {metric: metric_table(selected, metric) for metric in metrics}
    if clean["acc"].notna().any():
        scores = " / ".join(f"{100 * acc:.2f}" for acc in clean["acc"].dropna())
        note = f"A model trained on clean data by the same recipe: {scores}."
        made["acc"] = metric_table(selected, "acc", (note,))
    every: dict[str, Table | None] = {
        "averages": averages_table(selected),
        **made,
        "triggers": trigger_table(selected),
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
) -> dict[str, Table]:
    """The tables of the paper that the rows of one (dataset, model) pair are of, by file name.

    `made` are those of `build`; `norms` are of triggers, see `benchmark.report.norms`.
    """
    every: dict[str, Table | None] = {}
    if published is not None:
        if "effect" in made:
            every["table7"] = published_times(made["effect"], selected, published)
        every |= published_tables(published, rows, selected)
    if norms is not None:
        every["table11"] = norm_table(norms, selected, published)
    return {name: table for name, table in every.items() if table}


def _title(name: str) -> str:
    """The heading of a table, by its file name: `table3` is "Table 3"."""
    words = re.sub(r"^table(\d+)$", r"table \1", name).replace("_", " ")
    return METRICS.get(name, words[:1].upper() + words[1:])


def save(table: Table, stem: Path) -> list[Path]:
    """`stem`.csv, `stem`.md and `stem`.tex."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        stem.with_suffix(suffix).write_text(text, encoding="utf-8", newline="\n")
    return [stem.with_suffix(suffix) for suffix in texts]
