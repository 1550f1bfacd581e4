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
PARTS = {"asr_1": "ASR-1", "asr_2": "ASR-2", "racc_1": "R-ACC-1", "racc_2": "R-ACC-2"}
"""Columns of rows with an attack of two triggers."""
PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "paper" / "reported_results.csv"
SOURCES = ["SAU23-ok", "SAU23-repaired", "SAU23-unchecked", "BBv1-2022", "BBv2-2025", "BBcsv-2024"]
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
    for name in [*NUMBERS.split(), *(part for part in PARTS if part in rows)]:
        try:
            rows[name] = pd.to_numeric(rows[name].mask(rows[name] == ""))
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

    def printed(value: float, spread: float, state: str) -> str:
        if state in tables.ABSENT:
            return MARKS[state]
        text = "-" if np.isnan(value) else f"{value:.2f}"
        return text + ("" if np.isnan(spread) else f" ± {spread:.2f}") + MARKS.get(state, "")

    rows = zip(mean.to_numpy(), std.to_numpy(), states.to_numpy(), strict=True)
    text = [[printed(*cell) for cell in zip(*row, strict=True)] for row in rows]
    return DataFrame(text, index=mean.index, columns=mean.columns)


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
        notes.append(f"¶ left out of the Average, undefended model not sound: {', '.join(left)}.")
    if tables.pivot(selected, "acc").loc["Average"].isna().any():
        notes.append("No Average for a defense without a sound score for each attack it covers.")
    return tuple(notes)


def metric_table(selected: DataFrame, metric: str, notes: tuple[str, ...] = ()) -> Table:
    """The table of one metric (a key of `METRICS`) for one (dataset, model) pair, in percent."""
    mean, std = (100 * tables.pivot(selected, metric, how) for how in ("mean", "std"))
    states, kept = tables.statuses(selected), [*tables.counted(selected), "Average"]
    sound = states.isin(tables.SOUND).reindex(mean.index, fill_value=True)[mean.columns]
    ranks = tables.rank(mean[sound].loc[kept].reindex(mean.index), metric)
    text = cells(selected, metric)
    text.insert(0, "Attack", [a if a in kept else f"{a}¶" for a in text.index])
    numbers = mean.join(std.dropna(axis=1, how="all").add_suffix(" std"))
    numbers.insert(0, "attack", mean.index)
    odd = states.apply(
        lambda row: "; ".join(f"{d} {s}" for d, s in row.items() if s != "ok"), axis=1
    )
    better = "lower" if metric == "asr" else "higher"
    what = f"{METRICS[metric]} in percent, {better} is better; best defense bold, second underlined"
    text, ranks = text.reset_index(drop=True), ranks.reset_index(drop=True)
    return Table(
        caption(selected, what),
        text,
        numbers.assign(status=odd),
        ranks,
        footnotes(selected) + notes,
    )


def trigger_table(selected: DataFrame) -> Table | None:
    """Each trigger of the attacks that have two, for one (dataset, model) pair; as in table 24."""
    shown = {"acc": "ACC"} | {name: title for name, title in PARTS.items() if name in selected}
    several = selected[selected["asr_1"].notna()] if "asr_1" in selected else selected[:0]
    if several.empty:
        return None
    scores = several.groupby(["attack", "defense"], sort=False)[list(shown)]
    means = (100 * scores.mean()).rename(columns=shown).rename_axis(["Attack", "Defense"])
    text = means.map("{:.2f}".format).reset_index()
    what = "Each trigger of an attack with two, in percent"
    return Table(caption(several, what), text, means.reset_index(), DataFrame(), left=2)


def cost_table(rows: DataFrame) -> Table | None:
    """Mean wall time and largest peak memory per defense of one (dataset, model) pair, if any ran.

    A run costs what its last step cost, whichever step a rule selects. Runs that diverged stopped
    early and are left out, like those that never started.
    """
    runs = rows[rows["kind"] != "victim"].sort_values("step").groupby("key", sort=False)
    last = runs.tail(1).assign(peak=lambda end: end["key"].map(runs["peak_mib"].max())).sort_index()
    last = last[last["status"].isin(["ok", "collapsed"])]
    if last.empty:
        return None
    groups = last.groupby("defense", sort=False)
    numbers = DataFrame({"Runs": groups.size(), "Seconds": groups["seconds"].mean()})
    numbers["Peak MiB"] = groups["peak"].max()
    numbers = numbers.rename_axis("Defense").reset_index()
    text = numbers.astype({"Runs": str}).map(lambda v: v if isinstance(v, str) else f"{v:.2f}")
    what = "Cost of one run: mean seconds, largest peak memory in MiB, scoring excluded"
    devices = ", ".join(last["device"].unique())
    what += f". {rows['dataset'].iloc[0]}, {rows['model'].iloc[0]}; {devices}."
    return Table(what, text, numbers, DataFrame())


def reported_table(selected: DataFrame, published: Path) -> Table | None:
    """Measured beside published ACC, ASR and DER, for the cells that have a published value.

    A cell matches on dataset, network (the model's label up to " ("), attack, defense and a
    poisoning ratio within a tenth; of several sources the first of `SOURCES` counts. None without
    a match, or without the file.
    """
    if not published.is_file():
        return None
    dataset, model = selected[["dataset", "model"]].iloc[0]
    network = model.split(" (")[0]
    known = pd.read_csv(published)
    here = known["dataset"].eq(dataset) & known["architecture"].eq(network)
    known = known[here & known["source"].isin(SOURCES)]
    known = known.sort_values("source", key=lambda source: source.map(SOURCES.index))
    ratios, found = known["poison_ratio"].str.rstrip("%").astype(float) / 100, {}
    for names, runs in selected.groupby(["attack", "defense"], sort=False):
        near = (ratios / runs["poison_ratio"].mean() - 1).abs() <= 0.1
        hits = known[near & (known[["attack", "defense"]] == list(names)).all(axis=1)]
        if len(hits):
            found[names] = hits.iloc[0]
    if not found:
        return None
    theirs = DataFrame(found).T.rename_axis(["Attack", "Defense"])
    numbers, text = DataFrame(index=theirs.index), DataFrame(index=theirs.index)
    for metric in ("acc", "asr", "der"):
        name, other = METRICS[metric], f"{METRICS[metric]} published"
        ours = 100 * tables.pivot(selected, metric).stack()
        numbers[name], numbers[other] = ours.reindex(theirs.index), theirs[metric].astype(float)
        text[name] = cells(selected, metric).stack().astype(str).reindex(theirs.index).fillna("-")
        text[other] = [f"{v:.2f}".replace("nan", "-") for v in numbers[other]]
    numbers["Source"] = text["Source"] = theirs["source"] + " " + theirs["table"]
    what = "Measured beside published, in percent"
    what += f"; the measured network is not the paper's {network}" if network != model else ""
    frames = text.reset_index(), numbers.reset_index(), DataFrame()
    return Table(caption(selected, what), *frames, footnotes(selected), left=2)


def build(
    rows: DataFrame, selected: DataFrame, clean: DataFrame, published: Path
) -> dict[str, Table]:
    """Every table of one (dataset, model) pair that its rows allow, by file name."""
    metrics = [metric for metric in METRICS if selected[metric].notna().any()]
    made = {metric: metric_table(selected, metric) for metric in metrics}
    if len(clean):
        scores = " / ".join(f"{100 * acc:.2f}" for acc in clean["acc"])
        note = f"A model trained on clean data by the same recipe: {scores}."
        made["acc"] = metric_table(selected, "acc", (note,))
    others = {
        "triggers": trigger_table(selected),
        "cost": cost_table(rows),
        "reported": reported_table(selected, published),
    }
    return made | {name: table for name, table in others.items() if table}


def overview(rows: DataFrame, selected: DataFrame) -> str:
    """What each defense may know, how its step is selected; hardware; notes on runs."""
    lines = [["Defense", "May use", "Selection"]]
    for defense, runs in selected[selected["kind"] != "victim"].groupby("defense", sort=False):
        uses = " / ".join(KNOWLEDGE.get(use, use) for use in runs["uses"].unique())
        lines.append([str(defense), uses, " / ".join(runs["rule"].unique())])
    parts = [tables.pipes(lines, left=3)]
    for title, column in (("Hardware", "device"), ("Versions", "versions")):
        parts.append(f"{title}: {'; '.join(value for value in rows[column].unique() if value)}.")
    noted = selected[(selected["status"] != "ok") | (selected["note"] != "")]
    told = noted[["dataset", "model", "attack", "defense", "seed", "status", "note"]].astype(str)
    if len(told):
        parts.append(tables.pipes([told.columns.str.capitalize(), *told.to_numpy()], left=7))
    return "\n\n".join(parts)


def report(folder: Path, rules: Mapping[str, str], published: Path = PUBLISHED) -> list[Path]:
    """Write tables, figures and `report.md` of `folder/rows.csv` into `folder`; the files written.

    `rules` replaces the selection rule of the defenses it names (`benchmark.tables`). With several
    (dataset, model) pairs each gets subfolders of its own.

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
        for name, table in build(steps, chosen, clean, published).items():
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
    written.append(folder / "report.md")
    written[-1].write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return written
