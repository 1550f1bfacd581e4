"""`report.html`: the report as one file that any browser opens, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas import DataFrame

from sau_bench.benchmark.report.charts import Style, learning_curves, styles_of, trade_off
from sau_bench.benchmark.report.figures import Look, limits_of
from sau_bench.benchmark.report.lines import Line, lines_of, marks_of, names_of
from sau_bench.benchmark.report.page import (
    Entry,
    Listing,
    Value,
    embedded,
    listing,
    render,
    shown,
)
from sau_bench.benchmark.report.pair import Pair, title_of
from sau_bench.benchmark.report.remarks import Source, flags, named, provenance_lines
from sau_bench.benchmark.report.render import METRICS
from sau_bench.benchmark.rows import AXES

SECTIONS = {
    "averages": "Averages",
    "published": "Ours beside published",
    "cells": "All cells",
    "trade-off": "ACC against ASR",
    "curves": "Learning curves",
    "sheets": "What the triggers do",
    "costs": "Costs",
    "attention": "Failed and missing cells, warnings",
    "made": "Notes and provenance",
}
"""The parts of the page in order, by the names that links use."""
LEADS = "A point leads to its cell."
"""What the captions of charts add to the notes of figures."""
SHEET = "Clean and poisoned test images of each attack, and their difference."


@dataclass(frozen=True)
class Part:
    """Something in a section: a table, chart or picture, or nothing but its caption."""

    kind: Literal["table", "chart", "picture", "text"]
    shown: Any
    title: str = ""
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Remark:
    """What is said about a cell. place: where on the page it is, "" for nowhere."""

    cell: str
    place: str
    text: str


def webpage(
    title: str,
    folder: Path,
    pairs: Sequence[Pair],
    looks: Mapping[str, Look],
    source: Source | None,
    metrics: Sequence[str],
) -> str:
    """The text of the page. folder: of the report; metrics: keys of `METRICS`."""
    styles = styles_of(looks)
    lines = [[*lines_of(pair.selected, pair.clean, metrics)] for pair in pairs]
    every = [line for of_pair in lines for line in of_pair]
    runs = pd.concat([frame for p in pairs for frame in (p.selected, p.clean) if len(frame)])
    steps = pd.concat([frame for pair in pairs for frame in (pair.rows, pair.clean)])
    flagged = flags(runs)
    parts = [_parts(folder, *both, styles) for both in zip(pairs, lines, strict=True)]
    parts[0]["sheets"] = _sheets(folder)
    remarks = [*_remarks(runs[flagged]), *_gone(every)]
    filled = {"cells", "attention", "made"}
    filled |= {name for of_pair in parts for name, some in of_pair.items() if some}
    return render(
        "report.html",
        title=title,
        about=_about(pairs, runs, len(remarks)),
        sections={name: title for name, title in SECTIONS.items() if name in filled},
        pairs=[{"title": p.title, "parts": of} for p, of in zip(pairs, parts, strict=True)],
        styles=styles,
        cells=_cells(every, metrics, source),
        attention=remarks,
        notes=[*_remarks(runs[runs["note"].ne("") & ~flagged], status=False)],
        provenance=provenance_lines(steps),
        source=source,
    )


def _about(pairs: Sequence[Pair], runs: DataFrame, remarks: int) -> str:
    seeds = ", ".join(map(str, sorted(runs["seed"].unique())))
    where = "; ".join(pair.title for pair in pairs)
    text = f"{where}. {len(runs)} runs, seed{'s' * (',' in seeds)} {seeds}"
    return f"{text}; {remarks} not ok or with a warning." if remarks else f"{text}; all of them ok."


def _parts(
    folder: Path, pair: Pair, lines: Sequence[Line], styles: Mapping[str, Style]
) -> dict[str, list[Part]]:
    """What one (dataset, model) pair adds to each section."""
    parts: dict[str, list[Part]] = {name: [] for name in SECTIONS}
    for name, table in pair.tables.items():
        section = "costs" if name in ("cost", "effect") else "averages"
        title = title_of(name)
        if name in METRICS:
            title = f"{title} by attack"
        folded = section == "averages" and name != "averages"
        if folded and "averages" not in pair.tables and name == next(iter(pair.tables)):
            folded = False  # nothing else is above the fold
        title = "" if name == "averages" else title
        parts[section].append(Part("table", shown(table), title, folded=folded))
    if pair.no_test:
        parts["averages"].append(Part("text", None, "Tests", pair.no_test, folded=True))
    for place, (name, table) in enumerate(pair.beside.items()):
        parts["published"].append(Part("table", shown(table), title_of(name), folded=place > 0))
    if {"acc", "asr"} <= {name for line in lines for name in line.scores}:
        limits = limits_of(pair.rows, pair.selected)
        charts = {
            "trade-off": trade_off(pair.selected, lines, styles, limits),
            "curves": learning_curves(pair.rows, styles, limits),
        }
        for name, chart in charts.items():
            if chart:
                parts[name].append(Part("chart", chart, caption=f"{chart.note} {LEADS}"))
    for name, section in (("risks", "curves"), ("critical", "averages")):
        for file in pair.figures.get(name, ()):
            parts[section].append(Part("picture", embedded(folder / file), "", pair.caption(name)))
    return parts


def _sheets(folder: Path) -> list[Part]:
    """What the verb `show` has drawn."""
    files = sorted((folder / "figures").glob("attacks*.png"))
    return [Part("picture", embedded(file), caption=SHEET) for file in files]


def _cells(lines: Sequence[Line], metrics: Sequence[str], source: Source | None) -> Listing:
    several = [
        (title, name)
        for title, name in (("Dataset", "dataset"), ("Network", "model"))
        if len({getattr(line, name) for line in lines}) > 1
    ]
    titles = ["Defense", "Attack", *(title for title, _ in several)]
    titles += [METRICS[metric] for metric in metrics]
    titles += ["Seconds", "Status"]
    entries = []
    for place, line in enumerate(lines):
        values = [Value.of(line.defense), Value.of(line.attack)]
        values += [Value.of(getattr(line, name)) for _, name in several]
        for metric in metrics:
            score = line.scores.get(metric)
            values.append(
                Value.of(score.text, score.value) if score else Value.of("-", float("nan"))
            )
        values += [Value.of(line.seconds.text, line.seconds.value), Value.of(line.status)]
        title = " / ".join(filter(None, (line.dataset, line.model, line.attack, line.defense)))
        names, known = names_of(line.keys, place), line.properties
        if known and source and not source.merged:
            known = (*known, ("Config", (Path(source.config).name,) * len(line.runs)))
        entries.append(Entry(names, title, values, line.runs, known, line.flagged))
    caption = f"All {len(lines)} cells, scores in percent; press a defense for where it comes from"
    return listing(caption, titles, entries, marks_of(lines), ascending=("ASR", "Seconds"))


def _remarks(runs: DataFrame, status: bool = True) -> Iterator[Remark]:
    axes = [axis for axis in AXES if axis in ("attack", "defense") or runs[axis].nunique() > 1]
    for _, run in named(runs).iterrows():
        cell = " / ".join(str(run[axis]) for axis in axes if run[axis] != "")
        texts = [run["status"]] if status and run["status"] != "ok" else []
        texts += [run["warning"]] if status else []
        text = "; ".join(filter(None, [*texts, run["note"]]))
        yield Remark(cell, names_of([run["key"]], 0)[0] if run["key"] else "", text)


def _gone(lines: Sequence[Line]) -> Iterator[Remark]:
    """Cells without any row."""
    for place, line in enumerate(lines):
        if not line.runs:
            cell = f"{line.attack} / {line.defense}"
            yield Remark(cell, names_of((), place)[0], line.state)
