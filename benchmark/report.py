"""Rows to files: every table as CSV, Markdown and LaTeX, every figure as PDF and PNG, one report.

Reads `rows.csv` only: no weights, no GPU, no torch. The same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from benchmark import figures, tables
from benchmark.errors import InputError
from benchmark.tables import MARKS, METRICS, Table

TEXTS = "dataset model attack defense key victim kind select uses status note device versions"
NUMBERS = "seed step value acc asr racc n_clean n_poisoned own_acc poison_ratio seconds peak_mib"
COLUMNS = (*TEXTS.split(), *NUMBERS.split())
PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "paper" / "reported_results.csv"
SOURCES = "SAU23-ok SAU23-repaired SAU23-unchecked BBv1-2022 BBv2-2025 BBcsv-2024".split()
KNOWLEDGE = {"clean": "a small clean subset", "train": "the poisoned training set"}


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
    for name in NUMBERS.split():
        try:
            rows[name] = pd.to_numeric(rows[name].replace("", "nan"))
        except ValueError as error:
            raise InputError(f"{path}: column {name}: {error}") from error
    return rows


def grouped(values: Series, names: Series) -> str:
    """The distinct values, each with the names it belongs to: `last (FT, SAU); own (ANP)`."""
    groups = names.groupby(values, sort=False).unique()
    return "; ".join(f"{value} ({', '.join(group)})" for value, group in groups.items())


def caption(selected: DataFrame, what: str) -> str:
    """`what`, followed by dataset, model, seeds, poisoning ratio and selection rules."""
    first, seeds = selected.iloc[0], sorted(selected["seed"].unique())
    ratios = selected["poison_ratio"].map(lambda share: f"{100 * share:.3g} %")
    ratio = ratios.iloc[0] if ratios.nunique() == 1 else grouped(ratios, selected["attack"])
    spread = "seed" if len(seeds) == 1 else "mean ± standard deviation over the seeds"
    text = f"{what}. {first['dataset']}, {first['model']}; {spread} {', '.join(map(str, seeds))}"
    defended = selected[selected["rule"] != ""]
    rules = defended["rule"].replace("oracle", "oracle, which looks at test data,")
    rule = f"; selection: {grouped(rules, defended['defense'])}" if len(rules) else ""
    return f"{text}; poisoning ratio {ratio}{rule}."


def cells(selected: DataFrame, metric: str) -> DataFrame:
    """What is printed, attacks and Average x defenses: percent, spread over seeds, mark."""
    mean, std = (100 * tables.pivot(selected, metric, how) for how in ("mean", "std"))
    states = tables.statuses(selected).reindex_like(mean).fillna("ok")

    def printed(attack: str, defense: str) -> str:
        state, value = states.at[attack, defense], mean.at[attack, defense]
        if state in tables.ABSENT:
            return MARKS[state]
        spread = std.at[attack, defense]
        text = "–" if np.isnan(value) else f"{value:.2f}"
        return text + ("" if np.isnan(spread) else f" ± {spread:.2f}") + MARKS.get(state, "")

    return DataFrame({d: {a: printed(a, d) for a in mean.index} for d in mean.columns})


def footnotes(selected: DataFrame) -> tuple[str, ...]:
    """One line per mark in use, one for the attacks that the Average leaves out."""
    states = tables.statuses(selected)
    notes = []
    for state, mark in MARKS.items():
        found = [(a, d) for d in states.columns for a in states.index if states.at[a, d] == state]
        if found:
            attacks, defenses = (Series(names) for names in zip(*found, strict=True))
            notes.append(f"{mark} {state}: {grouped(defenses, attacks)}.")
    if left := [a for a in states.index if a not in tables.counted(selected)]:
        notes.append(f"* left out of the Average, undefended model not sound: {', '.join(left)}.")
    if tables.pivot(selected, "acc").loc["Average"].isna().any():
        notes.append("No Average for a defense without a sound score for each attack it covers.")
    return tuple(notes)


def metric_table(selected: DataFrame, metric: str) -> Table:
    """The table of one metric (a key of `METRICS`) for one (dataset, model) pair, in percent."""
    mean, std = (100 * tables.pivot(selected, metric, how) for how in ("mean", "std"))
    states, kept = tables.statuses(selected), [*tables.counted(selected), "Average"]
    sound = states.isin(tables.SOUND).reindex(mean.index, fill_value=True)[mean.columns]
    ranks = tables.rank(mean[sound].loc[kept].reindex(mean.index), metric)
    text = cells(selected, metric)
    text.insert(0, "Attack", [a if a in kept else f"{a}*" for a in text.index])
    numbers = mean.join(std.dropna(axis=1, how="all").add_suffix(" std"))
    numbers.insert(0, "attack", mean.index)
    status = {
        attack: "; ".join(f"{d} {state}" for d, state in row.items() if state != "ok")
        for attack, row in states.iterrows()
    }
    better = "lower" if metric == "asr" else "higher"
    what = f"{METRICS[metric]} in percent, {better} is better; best defense bold, second underlined"
    return Table(
        caption(selected, what),
        text.reset_index(drop=True),
        numbers.assign(status=Series(status)),
        ranks.reset_index(drop=True),
        footnotes(selected),
    )


def cost_table(rows: DataFrame) -> Table | None:
    """Mean wall time and largest peak memory per defense of one (dataset, model) pair, if any ran.

    A run costs what its last step cost, whichever step a rule selects. Runs that diverged stopped
    early and are left out, like those that never started.
    """
    runs = rows[rows["kind"] != "victim"].sort_values("step").groupby("key", sort=False)
    last = runs.tail(1).sort_index()
    last = last[last["status"].isin(["ok", "collapsed"])]
    last = last.assign(peak_mib=last["key"].map(runs["peak_mib"].max()))
    if last.empty:
        return None
    what = {"Runs": ("key", "size"), "Seconds": ("seconds", "mean"), "Peak MiB": ("peak_mib", "max")}
    numbers = last.groupby("defense", sort=False).agg(**what).rename_axis("Defense").reset_index()
    text = numbers.assign(Runs=numbers["Runs"].map(str))
    for name in ("Seconds", "Peak MiB"):
        text[name] = numbers[name].map("{:.2f}".format)
    first, devices = rows.iloc[0], ", ".join(last["device"].unique())
    title = "Cost of one run: mean wall time in seconds, largest peak memory in MiB, scoring excluded"
    title += f". {first['dataset']}, {first['model']}; {devices}."
    return Table(title, text, numbers, DataFrame())


def reported_table(selected: DataFrame, published: DataFrame) -> Table | None:
    """Measured beside published ACC, ASR and DER, for the cells that have a published value.

    A cell matches on dataset, network (the model's label up to " ("), attack, defense and a
    poisoning ratio within a tenth; of several sources the first of `SOURCES` counts.
    """
    first = selected.iloc[0]
    network = first["model"].split(" (")[0]
    known = published[published["source"].isin(SOURCES)]
    known = known.sort_values("source", key=lambda source: source.map(SOURCES.index))
    known = known[(known["dataset"] == first["dataset"]) & (known["architecture"] == network)]
    found = {}
    for names, runs in selected.groupby(["attack", "defense"], sort=False):
        share = runs["poison_ratio"].mean()
        near = (known["poison_ratio"] - share).abs() <= 0.1 * share
        for _, row in known[near & (known[["attack", "defense"]] == names).all(axis=1)][:1].iterrows():
            found[names] = row
    if not found:
        return None
    theirs = DataFrame(found).T.rename_axis(["Attack", "Defense"])
    numbers, text = DataFrame(index=theirs.index), DataFrame(index=theirs.index)
    for metric in ("acc", "asr", "der"):
        name, other = METRICS[metric], f"{METRICS[metric]} published"
        ours = 100 * tables.pivot(selected, metric).stack()
        numbers[name], numbers[other] = ours.reindex(theirs.index), theirs[metric].astype(float)
        text[name] = cells(selected, metric).stack().reindex(theirs.index).fillna("–")
        text[other] = [f"{v:.2f}".replace("nan", "–") for v in numbers[other]]
    numbers["Source"] = text["Source"] = theirs["source"] + " " + theirs["table"]
    what = "Measured beside published, in percent"
    if network != first["model"]:
        what += f"; the measured network is not the paper's {network}"
    text, numbers = text.reset_index(), numbers.reset_index()
    return Table(caption(selected, what), text, numbers, DataFrame(), footnotes(selected), left=2)


def overview(rows: DataFrame, selected: DataFrame) -> str:
    """What each defense may know, how its step is selected; hardware; runs with something to say."""
    defended = selected[selected["kind"] != "victim"].groupby("defense", sort=False)
    table = defended[["uses", "rule"]].agg(lambda values: " / ".join(values.unique()))
    lines = ["| Defense | May use | Selection |", "|---|---|---|"]
    for defense, (uses, rule) in table.iterrows():
        lines.append(f"| {defense} | {KNOWLEDGE.get(uses, uses)} | {rule} |")
    parts = ["\n".join(lines)]
    for title, column in (("Hardware", "device"), ("Versions", "versions")):
        parts.append(f"{title}: {'; '.join(value for value in rows[column].unique() if value)}.")
    noted = selected[(selected["status"] != "ok") | (selected["note"] != "")]
    told = [
        f"- {run['defense']}, {run['attack']}, {run['dataset']}, {run['model']}, "
        f"seed {run['seed']}: {run['status']}" + (f" ({run['note']})" if run["note"] else "")
        for _, run in noted.iterrows()
    ]
    return "\n\n".join([*parts, "\n".join(told)] if told else parts)


def report(folder: Path, rules: Mapping[str, str], published: Path = PUBLISHED) -> list[Path]:
    """Write tables, figures and `report.md` of `folder/rows.csv` into `folder`; the files written.

    `rules` replaces the selection rule of the defenses it names (`benchmark.tables`). With several
    (dataset, model) pairs each gets subfolders of its own. Without a file of `published` numbers
    no table compares with them.

    Raises:
        InputError: unreadable rows, or rules that do not fit them.
    """
    rows = read_rows(folder / "rows.csv")
    try:
        selected = tables.select(rows, rules)
    except ValueError as error:
        raise InputError(f"{folder / 'rows.csv'}: {error}") from error
    looks, known = figures.looks(rows), read_published(published)
    pairs, written = selected.groupby(["dataset", "model"], sort=False), []
    parts = [f"# {folder.name}", overview(rows, selected)]
    for (dataset, model), chosen in pairs:
        steps = rows[(rows["dataset"] == dataset) & (rows["model"] == model)]
        place = slug(f"{dataset} {model}") if len(pairs) > 1 else ""
        defended = (chosen["kind"] != "victim").any()
        made = {metric: metric_table(chosen, metric) for metric in METRICS if defended or metric != "der"}
        made |= {"cost": cost_table(steps), "reported": reported_table(chosen, known)}
        drawn = {"scatter": figures.scatter(chosen, looks), "bars": figures.bars(chosen, looks)}
        if defended: drawn["der"] = figures.der_heatmap(chosen)
        if (steps["kind"] == "rounds").any(): drawn["curves"] = figures.curves(steps, looks)
        parts.append(f"## {dataset}, {model}")
        for name, table in made.items():
            if table is None: continue
            ...
    return written
