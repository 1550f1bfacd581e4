"""The cells of a grid as lines of one long table, each with the runs that it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pandas import DataFrame, Series

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.remarks import CLEAN_MODEL, handed
from sau_bench.benchmark.report.render import MARKS, MEANINGS, METRICS, PARTS, cells
from sau_bench.benchmark.rows import PROBE_COLUMNS


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
    by_cell = dict(iter(selected.groupby(["attack", "defense"])))
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
            runs = by_cell.get((attack, defense), selected[:0])
            state = str(states.at[attack, defense])
            yield _line((dataset, model, attack, defense), scores, state, runs)
    if len(clean):
        accs = 100 * clean["acc"]
        scores = {"acc": Score(_mean(accs), accs.mean())} if "acc" in metrics else {}
        state = tables.state_of(
            [(status, status == "ok") for status in clean["status"]], len(clean)
        )
        yield _line((dataset, model, "", CLEAN_MODEL), scores, state, clean)


def _line(
    labels: tuple[str, str, str, str], scores: dict[str, Score], state: str, runs: DataFrame
) -> Line:
    seconds = runs["seconds"].mean() if len(runs) else np.nan
    cost = Score("-" if np.isnan(seconds) else f"{seconds:.1f}", seconds)
    seeds = tuple(f"Seed {seed}" for seed in runs["seed"])
    return Line(*labels, scores, state, cost, seeds, tuple(properties(runs)))


def _mean(values: Series) -> str:
    if values.isna().all():
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if values.count() > 1 else "")


def properties(runs: DataFrame) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the rows hold, in words: a title, and the text of each run."""
    if runs.empty:
        return
    columns: dict[str, list[str]] = {
        "Key": [*runs["key"]],
        "Key of the victim": [*runs["victim"]],
        "Status": [*runs["status"]],
        "Warning": [*runs["warning"]],
        "Note": [*runs["note"]],
    }
    if "rule" in runs:
        columns["Selection"] = [*runs["rule"]]
    columns["Step"] = [_step(run) for _, run in runs.iterrows()]
    for name, title in {**METRICS, **PARTS}.items():
        if name in runs:
            count = runs["n_clean" if name == "acc" else "n_poisoned"] if name != "der" else None
            columns[title] = _shares(runs[name], count)
    columns["ACC on the defender's data"] = _shares(runs["own_acc"])
    columns["the same before the defense"] = _shares(runs["own_acc_before"])
    for name in PROBE_COLUMNS:
        if name in runs:
            columns[name.replace("_", " ").capitalize()] = _shares(runs[name])
    columns |= {
        "May use": [*handed(runs)],
        "Poisoning ratio": _shares(runs["poison_ratio"]),
        "Seconds": _numbers(runs["seconds"]),
        "Peak MiB": _numbers(runs["peak_mib"]),
        "Hardware": [*runs["device"]],
        "Versions": [*runs["versions"]],
        "Arithmetic": [*runs["arithmetic"]],
    }
    for title, texts in columns.items():
        if any(texts):
            yield title, tuple(map(str, texts))


def _step(run: Series) -> str:
    if run["kind"] == "rounds" and run["step"]:
        return f"round {run['step']:g}"
    if run["kind"] == "candidates" and run["step"]:
        value = "" if np.isnan(run["value"]) else f", setting {run['value']:g}"
        return f"candidate {run['step']:g}{value}"
    return ""


def _shares(values: Series, counts: Series | None = None) -> list[str]:
    """Shares in percent, with the number of images that they are of."""
    of = Series("", index=values.index)
    if counts is not None:
        of = counts.map(lambda count: "" if np.isnan(count) else f" of {count:,.0f} images")
    texts = values.map(lambda share: "" if np.isnan(share) else f"{100 * share:.2f} %")
    return [*(texts + of.where(texts.ne(""), ""))]


def _numbers(values: Series) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.1f}" for value in values]


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
