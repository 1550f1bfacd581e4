"""Tables as a report prints them: which there are, what their cells and captions say.

Numbers come from `benchmark.report.tables`; here they become text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from benchmark.report import tables
from benchmark.report.tables import MARKS, METRICS, Table

PARTS = {"asr_1": "ASR-1", "asr_2": "ASR-2", "racc_1": "R-ACC-1", "racc_2": "R-ACC-2"}
"""Columns of rows with an attack of two triggers."""
SOURCES = ["SAU23-ok", "SAU23-repaired", "SAU23-unchecked", "BBv1-2022", "BBv2-2025", "BBcsv-2024"]
EFFECTIVE_ASR = 0.05


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
    what = f"{METRICS[metric]} in percent, {better} is better"
    if (selected["kind"] != "victim").any():
        what += "; best defense bold, second underlined"
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


def effect_table(rows: DataFrame, selected: DataFrame, keep: float | None) -> Table | None:
    """Seconds until each defense took effect, for one (dataset, model) pair (the paper's table 7).

    Effect: ASR below 5 % at an ACC above `keep`, a share, or above nine tenths of the victim's own
    where that is None. A defense that never gets there, or whose selected candidate does not,
    counts with the seconds of its whole run, which is marked by ">".
    """
    runs = selected[(selected["kind"] != "victim") & (selected["status"] == "ok")]
    if runs.empty:
        return None
    victims = rows[rows["kind"] == "victim"].set_index("key")["acc"]
    found = []
    for _, chosen in runs.iterrows():
        steps = rows[rows["key"] == chosen["key"]].sort_values("step")
        floor = victims[chosen["victim"]] * (1 - tables.TOLERATED_LOSS) if keep is None else keep
        # Of candidates only the selected one exists, once all have been made.
        scored = steps if chosen["kind"] == "rounds" else chosen.to_frame().T
        hits = scored[(scored["asr"] < EFFECTIVE_ASR) & (scored["acc"] > floor)]
        rounds = chosen["kind"] == "rounds" and len(hits)
        seconds = hits["seconds"].iloc[0] if rounds else steps["seconds"].max()
        found.append((chosen["attack"], chosen["defense"], float(seconds), len(hits) > 0))
    each = DataFrame(found, columns=["attack", "defense", "seconds", "reached"])
    by_cell = each.groupby(["attack", "defense"], sort=False)
    attacks, defenses = tables.labels(selected, "der")
    seconds = by_cell["seconds"].mean().unstack().reindex(index=attacks, columns=defenses)
    reached = by_cell["reached"].all().unstack().reindex_like(seconds)
    kept = tables.counted(selected)
    seconds.loc["Average"] = seconds.loc[kept].mean(skipna=False)
    reached.loc["Average"] = True
    text = seconds.map("{:.1f}".format).replace("nan", "-")
    text = text.where(reached.ne(False), ">" + text)
    level = "nine tenths of the victim's" if keep is None else f"{100 * keep:g} %"
    what = f"Seconds until ASR is below {100 * EFFECTIVE_ASR:g} % at an ACC above {level}; "
    what += "> never, the seconds of the whole run"
    ranked = seconds.where(reached.ne(False)).loc[[*kept, "Average"]]
    ranks = tables.rank(ranked.reindex(seconds.index), "asr")
    text.insert(0, "Attack", seconds.index)
    numbers = seconds.rename_axis("attack").reset_index()
    plain = text.reset_index(drop=True), numbers, ranks.reset_index(drop=True)
    return Table(caption(selected, what), *plain)


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
    rows: DataFrame,
    selected: DataFrame,
    clean: DataFrame,
    published: Path,
    effective_acc: float | None,
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
        "effect": effect_table(rows, selected, effective_acc),
        "reported": reported_table(selected, published),
    }
    return made | {name: table for name, table in others.items() if table}
