"""The cells of a grid as lines of one long table, each with the runs that it is made of."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pandas import DataFrame, Series

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.remarks import CLEAN_MODEL, handed
from sau_bench.benchmark.report.render import MARKS, MEANINGS, METRICS, PARTS, cells
from sau_bench.benchmark.rows import PROBE_COLUMNS

Run = Mapping[Hashable, Any]
"""A row by column, see `runs_of`."""


@dataclass(frozen=True)
class Score:
    """A score as it is printed, and by which it is sorted; NaN where there is none."""

    text: str
    value: float


@dataclass(frozen=True)
class Line:
    """One cell: its labels, its scores by metric, its state, and what is known of its runs.

    runs: of each seed. properties: (title, one text for each run), without those that no run has.
    """

    dataset: str
    model: str
    attack: str
    defense: str
    scores: dict[str, Score]
    state: str
    seconds: Score
    runs: tuple[str, ...]
    properties: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def status(self) -> str:
        """The state of the cell, or that a run has a warning."""
        return "warning" if self.state == "ok" and self.flagged else self.state

    @property
    def flagged(self) -> bool:
        """Whether the cell is not ok, or a run of it has a warning."""
        return self.state != "ok" or any(title == "Warning" for title, _ in self.properties)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the jobs of its runs."""
        return dict(self.properties).get("Key", ())


def lines_of(selected: DataFrame, clean: DataFrame, metrics: Sequence[str]) -> Iterator[Line]:
    """The cells of one (dataset, model) pair, then its models trained on clean data.

    `selected` are its rows that count, `clean` those of models trained on clean data; `metrics` are
    keys of `METRICS`.
    """
    dataset, model = selected[["dataset", "model"]].iloc[0]
    attacks, defenses = tables.labels_of(selected)
    states = tables.cell_states(selected)
    texts = {metric: cells(selected, metric) for metric in metrics}
    means = {m: (100 * tables.pivot(selected, m)).stack().to_dict() for m in metrics}
    by_cell: dict[tuple[str, str], list[Run]] = {}
    for run in runs_of(selected):
        by_cell.setdefault((run["attack"], run["defense"]), []).append(run)
    for attack in attacks:
        for defense in defenses:
            scores = {
                metric: Score(
                    str(texts[metric].at[attack, defense]),
                    means[metric].get((attack, defense), np.nan),
                )
                for metric in metrics
                if defense in texts[metric]
            }
            runs = by_cell.get((attack, defense), [])
            state = str(states.at[attack, defense])
            yield _line((dataset, model, attack, defense), scores, state, runs)
    if len(clean):
        accs = 100 * clean["acc"]
        scores = {"acc": Score(_mean(accs), accs.mean())} if "acc" in metrics else {}
        state = tables.state_of(
            [(status, status == "ok") for status in clean["status"]], len(clean)
        )
        yield _line((dataset, model, "", CLEAN_MODEL), scores, state, runs_of(clean))


def runs_of(rows: DataFrame) -> Sequence[Run]:
    """The rows as mappings, with what the defense was handed."""
    return rows.assign(handed=handed(rows)).to_dict("records")


def _line(
    labels: tuple[str, str, str, str], scores: dict[str, Score], state: str, runs: Sequence[Run]
) -> Line:
    times = [run["seconds"] for run in runs if not np.isnan(run["seconds"])]
    cost = Score("-", np.nan)
    if times:
        mean = float(np.mean(times))
        cost = Score(f"{mean:.1f}", mean)
    seeds = tuple(f"Seed {run['seed']}" for run in runs)
    return Line(*labels, scores, state, cost, seeds, properties(runs))


def _mean(values: Series) -> str:
    if values.isna().all():
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if values.count() > 1 else "")


def properties(runs: Sequence[Run]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What the rows hold, in words: a title and the text of each run, of `runs_of`."""
    told = [_told(run) for run in runs]
    titles = dict.fromkeys(title for texts in told for title in texts)
    columns = ((title, tuple(texts.get(title, "") for texts in told)) for title in titles)
    return tuple((title, texts) for title, texts in columns if any(texts))


def _told(run: Run) -> dict[str, str]:
    told = {
        "Key": run["key"],
        "Key of the victim": run["victim"],
        "Status": run["status"],
        "Warning": run["warning"],
        "Note": run["note"],
        "Selection": run.get("rule", ""),
        "Step": _step(run),
    }
    for name, title in {**METRICS, **PARTS}.items():
        told[title] = text = _share(run.get(name, np.nan))
        count = run["n_clean" if name == "acc" else "n_poisoned"]
        if text and name != "der" and not np.isnan(count):
            told[title] = f"{text} of {count:,.0f} images"
    told["ACC on the defender's data"] = _share(run["own_acc"])
    told["the same before the defense"] = _share(run["own_acc_before"])
    for name in PROBE_COLUMNS:
        told[name.replace("_", " ").capitalize()] = _share(run.get(name, np.nan))
    return told | {
        "May use": run["handed"],
        "Poisoning ratio": _share(run["poison_ratio"]),
        "Seconds": _number(run["seconds"]),
        "Peak MiB": _number(run["peak_mib"]),
        "Hardware": run["device"],
        "Versions": run["versions"],
        "Arithmetic": run["arithmetic"],
    }


def _step(run: Run) -> str:
    if run["kind"] == "rounds" and run["step"]:
        return f"round {run['step']:g}"
    if run["kind"] == "candidates" and run["step"]:
        value = "" if np.isnan(run["value"]) else f", setting {run['value']:g}"
        return f"candidate {run['step']:g}{value}"
    return ""


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.2f} %"


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}"


def marks_of(lines: Sequence[Line]) -> dict[str, str]:
    """The marks that occur, with what each means."""
    states = {line.state for line in lines}
    return {
        mark: state + MEANINGS.get(state, "") for state, mark in MARKS.items() if state in states
    }


def names_of(keys: Sequence[str], place: int) -> tuple[str, ...]:
    """Where links to a cell lead: by the key of each of its runs, else by its place on the page."""
    known = (re.sub("[^0-9A-Za-z_-]", "-", key) for key in dict.fromkeys(keys) if key)
    return tuple(f"key-{key}" for key in known) or (f"cell-{place}",)
