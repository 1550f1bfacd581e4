"""What `report.md` says about runs beside their scores: what went wrong, provenance, notes.

A function returns the paragraphs of a section, none where there is nothing to say. `runs` has the
rows that count: selected ones, and models that were trained on clean data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pandas import DataFrame, Series

from sau_bench.benchmark.report.render import grouped, pipes
from sau_bench.benchmark.rows import AXES

CLEAN_MODEL = "trained on clean data"
"""What takes the place of the defense for a model without attack and defense."""

OTHER_DATA = {"train": "the poisoned training set", "none": "no data"}
"""What a defense is handed that gets no clean images, by the column `uses`."""


@dataclass(frozen=True)
class Source:
    """Where the rows of a report are from.

    title: of the report. run, report: the commands that made rows and report. config: the path of
    the config, seen from the report. texts: of that file and those whose keys it takes over.
    merged: whether there are rows of other configs, too.
    """

    title: str
    run: str
    report: str
    config: str
    texts: Mapping[str, str]
    merged: bool = False


def flags(runs: DataFrame) -> Series:
    """Which runs are not ok or have a warning."""
    return runs["status"].ne("ok") | runs["warning"].ne("")


def pointer(runs: DataFrame) -> list[str]:
    """The line above all tables that sends a reader to the section "Attention"."""
    count = int(flags(runs).sum())
    return [f"Not ok or with a warning: [{count} of {len(runs)} runs](#attention)."] * (count > 0)


def attention(runs: DataFrame) -> list[str]:
    """The runs that are not ok or have a warning, a line each."""
    columns = [*AXES, "status", "warning", "note"]
    lines = named(runs[flags(runs)])[columns].astype(str)
    if lines.empty:
        return []
    titles = lines.columns.str.capitalize()
    return ["## Attention", pipes([titles, *lines.to_numpy()], left=len(columns))]


def provenance(rows: DataFrame, selected: DataFrame) -> list[str]:
    """The data that each defense is handed, how its step is selected; hardware and versions."""
    lines = [["Defense", "May use", "Selection"]]
    for defense, runs in selected[selected["kind"] != "victim"].groupby("defense", sort=False):
        lines.append([str(defense), _data(runs), " / ".join(runs["rule"].unique())])
    table = [pipes(lines, left=3)] if lines[1:] else []
    return ["## Provenance", *table, *provenance_lines(rows)]


def provenance_lines(rows: DataFrame) -> list[str]:
    """Hardware, versions and arithmetic of the rows."""
    parts = []
    for title, column in (("Hardware", "device"), ("Versions", "versions")):
        parts.append(f"{title}: {'; '.join(value for value in rows[column].unique() if value)}.")
    declared = rows[rows["arithmetic"].ne("")]
    if len(declared):
        defenses = declared["defense"].mask(declared["kind"] == "clean", CLEAN_MODEL)
        parts.append(f"Arithmetic of the training: {grouped(declared['arithmetic'], defenses)}.")
    return parts


def made_by(source: Source | None) -> list[str]:
    """The commands that made rows and report, and the config."""
    if source is None:
        return []
    others = " and others" * source.merged
    made = f"Rows: `{source.run}`{others}; this report: `{source.report}`"
    return [f"{made}; config: [`{Path(source.config).name}`]({source.config})."]


def notes(runs: DataFrame) -> list[str]:
    """The notes of runs that are ok and have no warning, a line for each defense."""
    noted = named(runs[runs["note"].ne("") & ~flags(runs)])
    # Axes on which all runs agree need no mention.
    axes = [axis for axis in AXES if axis != "defense" and runs[axis].nunique() > 1] or ["attack"]
    lines = []
    for defense, of_defense in noted.groupby("defense", sort=False):
        cells = of_defense[axes].astype(str).apply(_joined, axis=1)
        groups = cells.groupby(of_defense["note"], sort=False).unique()
        texts = (f"{', '.join(names)}: {note}" for note, names in groups.items())
        lines.append(f"- **{defense}**: {' · '.join(texts)}")
    return ["## Notes", "\n".join(lines)] if lines else []


def named(runs: DataFrame) -> DataFrame:
    """The runs with `CLEAN_MODEL` for the defense of those without an attack."""
    return runs.assign(defense=runs["defense"].where(runs["kind"] != "clean", CLEAN_MODEL))


def _joined(labels: Iterable[str]) -> str:
    return " / ".join(filter(None, labels))


def _data(runs: DataFrame) -> str:
    """What the runs of one defense are handed: their budgets of clean images, or poisoned ones."""
    return " / ".join(text for text in handed(runs).unique() if text)


def handed(runs: DataFrame) -> Series:
    """What the defense of each run is handed; "" where nothing is, or a run does not say."""
    budgets = runs["clean_ratio"].map(
        lambda share: "" if np.isnan(share) else f"{100 * share:.3g} % of the training set, clean"
    )
    return budgets.where(runs["uses"] == "clean", runs["uses"].map(OTHER_DATA).fillna(""))
