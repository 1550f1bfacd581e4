"""Rows to files: every table as CSV, Markdown and LaTeX, every figure as PDF and PNG, one report.

Reads `rows.csv` only: no weights, no GPU, no torch. The same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from benchmark.errors import InputError
from benchmark.report import figures, tables
from benchmark.report.costs import cost_table, effect_table
from benchmark.report.published import PUBLISHED, published_table
from benchmark.report.read import read_rows
from benchmark.report.remarks import attention, notes, pointer, provenance
from benchmark.report.render import METRICS, Table, averages_table, metric_table, trigger_table
from benchmark.report.risks import has_risks, risk_curves


def report(
    folder: Path,
    rules: Mapping[str, str],
    effective_acc: float | None = None,
    average_collapsed: bool = False,
    published: Path = PUBLISHED,
) -> list[Path]:
    """Write tables, figures and `report.md` of `folder/rows.csv` into `folder`; returns the files.

    `rules` maps a defense's label to the selection rule (`benchmark.report.tables`) that replaces
    the one in the rows. `average_collapsed`: averages include collapsed victims. With several
    (dataset, model) pairs, a pair has subfolders.

    Raises:
        InputError: a file that is no table of rows, or an unknown rule.
    """
    rows = read_rows(folder / "rows.csv")
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
        for name, table in build(steps, chosen, clean, published, effective_acc).items():
            results += [f"### {METRICS.get(name, name.capitalize())}", table.markdown().strip()]
            written += save(table, folder / "tables" / place / name)
        drawn = figures.draw(steps, chosen, looks)
        if has_risks(steps):
            drawn["risks"] = risk_curves(steps, looks)
        for name, figure in drawn.items():
            written += figures.save(figure, folder / "figures" / place / name)
            results.append(f"![{name}]({written[-1].relative_to(folder).as_posix()})")
    for file in set((folder / "tables").rglob("*.*")) - set(written):
        file.unlink()  # a table that these rows no longer have
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
    published: Path,
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
        "reported": published_table(selected, published),
    }
    return {name: table for name, table in every.items() if table}


def save(table: Table, stem: Path) -> list[Path]:
    """`stem`.csv, `stem`.md and `stem`.tex."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        stem.with_suffix(suffix).write_text(text, encoding="utf-8", newline="\n")
    return [stem.with_suffix(suffix) for suffix in texts]
