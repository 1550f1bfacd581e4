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
from benchmark.report.render import PARTS, build
from benchmark.report.tables import METRICS, Table

TEXTS = "dataset model attack defense key victim kind select uses status note device versions"
NUMBERS = (
    "seed step value acc asr racc n_clean n_poisoned own_acc poison_ratio clean_ratio seconds"
    " peak_mib"
)
COLUMNS = (*TEXTS.split(), *NUMBERS.split())
PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "paper" / "reported_results.csv"


def read_rows(path: Path) -> DataFrame:
    """The rows of one configuration, with every column of `COLUMNS`; an empty cell is "" or NaN.

    Raises:
        InputError: no such file, missing columns, no rows, text where a number belongs, or a
            unknown status.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the grid first")
    # keys are hex and notes free text: neither may be read as a number or as a missing value
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    if rows.empty:
        raise InputError(f"{path} has no rows")
    if unknown := sorted(set(rows["status"]) - set(tables.STATUSES)):
        accepted = ", ".join(tables.STATUSES)
        raise InputError(f"{path}: status {unknown[0]!r}; accepted: {accepted}")
    for name in [*NUMBERS.split(), *(part for part in PARTS if part in rows)]:
        try:
            rows[name] = pd.to_numeric(rows[name].mask(rows[name] == ""))
        except ValueError as error:
            raise InputError(f"{path}: column {name}: {error}") from error
    return rows


def knowledge(runs: DataFrame) -> str:
    """What the runs of one defense were handed: its budget of clean images, or poisoned ones."""
    budgets = runs["clean_ratio"].map(
        lambda share: f"{100 * share:.3g} % of the training set, clean"
    )
    return " / ".join(budgets.where(runs["uses"] == "clean", "the poisoned training set").unique())


def overview(rows: DataFrame, selected: DataFrame) -> str:
    """What each defense may know, how its step is selected; hardware; notes on runs."""
    lines = [["Defense", "May use", "Selection"]]
    for defense, runs in selected[selected["kind"] != "victim"].groupby("defense", sort=False):
        lines.append([str(defense), knowledge(runs), " / ".join(runs["rule"].unique())])
    parts = [tables.pipes(lines, left=3)] if lines[1:] else []
    for title, column in (("Hardware", "device"), ("Versions", "versions")):
        parts.append(f"{title}: {'; '.join(value for value in rows[column].unique() if value)}.")
    noted = selected[(selected["status"] != "ok") | (selected["note"] != "")]
    told = noted[["dataset", "model", "attack", "defense", "seed", "status", "note"]].astype(str)
    if len(told):
        parts.append(tables.pipes([told.columns.str.capitalize(), *told.to_numpy()], left=7))
    return "\n\n".join(parts)


def report(
    folder: Path,
    rules: Mapping[str, str],
    effective_acc: float | None = None,
    published: Path = PUBLISHED,
) -> list[Path]:
    """Write tables, figures and `report.md` of `folder/rows.csv` into `folder`; the files written.

    `rules` replaces the selection rule of the defenses it names (`benchmark.report.tables`). With
    several (dataset, model) pairs each gets subfolders of its own.

    Raises:
        InputError: unreadable rows, or rules that do not fit them.
    """
    rows = read_rows(folder / "rows.csv")
    attacked = rows["kind"] != "clean"
    try:
        selected = tables.select(rows[attacked], rules)
    except ValueError as error:
        raise InputError(f"{folder / 'rows.csv'}: {error}") from error
    written: list[Path] = []
    parts = [f"# {folder.name}", overview(rows, selected)]
    pairs, looks = selected.groupby(["dataset", "model"], sort=False), figures.looks(rows[attacked])
    for (dataset, model), chosen in pairs:
        here = (rows["dataset"] == dataset) & (rows["model"] == model)
        steps, clean = rows[here & attacked], rows[here & ~attacked]
        name = re.sub(r"[^a-z0-9]+", "-", f"{dataset} {model}".lower()).strip("-")
        place = name if len(pairs) > 1 else ""
        parts.append(f"## {dataset}, {model}")
        for name, table in build(steps, chosen, clean, published, effective_acc).items():
            parts += [f"### {METRICS.get(name, name.capitalize())}", table.markdown().strip()]
            stem = folder / "tables" / place / name
            stem.parent.mkdir(parents=True, exist_ok=True)
            for suffix, write in {
                ".csv": Table.csv,
                ".md": Table.markdown,
                ".tex": Table.latex,
            }.items():
                written.append(stem.with_suffix(suffix))
                written[-1].write_text(write(table), encoding="utf-8", newline="\n")
        for name, figure in figures.draw(steps, chosen, looks).items():
            written += figures.save(figure, folder / "figures" / place / name)
            parts.append(f"![{name}]({written[-1].relative_to(folder).as_posix()})")
    for file in set((folder / "tables").rglob("*.*")) - set(written):
        file.unlink()  # a table that these rows no longer have
    written.append(folder / "report.md")
    written[-1].write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return written
