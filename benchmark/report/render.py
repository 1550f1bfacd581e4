"""Tables as a report prints them: cells, captions, footnotes, and the formats of a table's file.

Numbers come from `benchmark.report.tables`; here they become text. Tables of cost and of published
numbers have files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas import DataFrame, MultiIndex, Series

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.memory import remembered
from sau_bench.benchmark.rows import MIN_ASR, MIN_CHANCES, NO_RESULT, PART_COLUMNS

METRICS = {"acc": "ACC", "asr": "ASR", "racc": "R-ACC", "der": "DER"}
PARTS = {name: name.upper().replace("_", "-").replace("RACC", "R-ACC") for name in PART_COLUMNS}
MARKS = {"diverged": "†", "collapsed": "‡", tables.KEPT: "‡", "fewer seeds": "§"}
MARKS |= {"not applicable": "n/a", "unusable": "unusable", "failed": "failed"}
MARKS |= {"blocked": "blocked", "missing": "-"}
"""What the state of a cell (`tables.cell_states`) adds to its score, or prints instead of one."""
COLLAPSE = f"ACC below {MIN_CHANCES} / number of classes or ASR below {100 * MIN_ASR:g} %"
MEANINGS = {"collapsed": f" ({COLLAPSE})", tables.KEPT: f" ({COLLAPSE})"}
MEANINGS |= {"fewer seeds": " than the caption names (k of n)"}
"""What a footnote adds to the name of a state."""
LEFT_OUT = "¶"
"""The mark of an attack that the Average leaves out."""
TEX = str.maketrans(
    {c: f"\\{c}" for c in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "±": r"$\pm$"}
    | {"<": "$<$", ">": "$>$"}  # other characters in the default encoding
    | {"†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "¶": r"$^\P$"}
)


@dataclass(frozen=True)
class Table:
    """A finished table: `text` is printed, `numbers` goes into the CSV, `notes` are footnotes.

    `ranks` covers some columns of `text` (1 best, 2 second); its first `left` columns are labels.
    """

    caption: str
    text: DataFrame
    numbers: DataFrame
    ranks: DataFrame
    notes: tuple[str, ...] = ()
    left: int = 1
    float_format: str = "%.2f"

    def csv(self) -> str:
        """Plain numbers, with two decimals unless `float_format` says otherwise."""
        return self.numbers.to_csv(index=False, float_format=self.float_format, lineterminator="\n")

    def markdown(self) -> str:
        """Caption, pipe table (best bold, second best underlined), notes."""
        cells = self._styled(self.text, "**{}**", "<u>{}</u>")
        table = pipes([cells.columns, *cells.to_numpy()], self.left)
        return "\n\n".join([self.caption, table, *self.notes]) + "\n"

    def latex(self) -> str:
        """The same as a `table` float; it needs the package booktabs."""
        escaped = self.text.map(lambda cell: cell.translate(TEX))
        cells = self._styled(escaped, r"\textbf{{{}}}", r"\underline{{{}}}")
        cells.columns = cells.columns.map(lambda name: name.translate(TEX))
        lines = cells.style.hide(axis="index").to_latex(
            hrules=True,
            position_float="centering",
            caption=self.caption.translate(TEX),
            column_format="l" * self.left + "r" * (len(cells.columns) - self.left),
        )
        lines = lines.replace("\nAverage &", "\n\\midrule\nAverage &")
        return lines.replace("\\end{table}", self.latex_notes() + "\\end{table}")

    def latex_notes(self) -> str:
        """Small lines that begin at the left, with a space above."""
        if not self.notes:
            return ""
        lines = "".join(f"{note.translate(TEX)}\\par\n" for note in self.notes)
        return f"\\par\\medskip\n{{\\footnotesize\\raggedright\n{lines}}}\n"

    def _styled(self, text: DataFrame, best: str, second: str) -> DataFrame:
        """`text` with `best` or `second`, both format strings, around the ranked cells."""
        ranks = self.ranks.reindex_like(text).to_numpy(float)
        formats = {1: best.format, 2: second.format}
        lines = (zip(*pair, strict=True) for pair in zip(text.to_numpy(), ranks, strict=True))
        styled = [[formats.get(rank, str)(cell) for cell, rank in line] for line in lines]
        return DataFrame(styled, index=text.index, columns=text.columns)


def is_shown(metric: str, shown: Sequence[str]) -> bool:
    """Whether a metric is shown; that of one trigger, `asr_1`, is if ASR is."""
    return metric.partition("_")[0] in shown


def pipes(lines: Sequence[Iterable[str]], left: int) -> str:
    """A Markdown table, the header first; the first `left` columns are aligned to the left."""
    rows = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines]
    rows.insert(1, ["---"] * left + ["---:"] * (len(rows[0]) - left))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def grouped(values: Series, names: Series) -> str:
    """The distinct values, with the names that each belongs to: `last (FT, SAU); own (ANP)`."""
    groups = names.groupby(values, sort=False).unique()
    return "; ".join(f"{value} ({', '.join(group)})" for value, group in groups.items())


def caption(selected: DataFrame, what: str, over_seeds: str = "mean ± standard deviation") -> str:
    """`what`, followed by dataset, model, seeds, poisoning ratio and selection rules.

    `over_seeds` says what a cell holds where there are several seeds. Says as well if averages
    include collapsed victims.
    """
    first, seeds = selected.iloc[0], sorted(selected["seed"].unique())
    ratios = selected["poison_ratio"].dropna().map(lambda share: f"{100 * share:.3g} %")
    ratio = ratios.iloc[0] if ratios.nunique() == 1 else grouped(ratios, selected["attack"])
    ratio = f"; poisoning ratio {ratio}" if ratio else ""
    over = "seed" if len(seeds) == 1 else f"{over_seeds} over n = {len(seeds)} seeds,"
    text = f"{what}. {first['dataset']}, {first['model']}; {over} {', '.join(map(str, seeds))}"
    defended = selected[selected["rule"] != ""]
    rules = defended["rule"].replace("oracle", "oracle, which looks at test data,")
    alike = rules.nunique() == 1  # then the names of all defenses would say nothing
    chosen = rules.iloc[0].rstrip(",") if alike else grouped(rules, defended["defense"])
    rule = f"; selection: {chosen}" if chosen else ""
    kept = (selected["status"] == tables.KEPT).any()
    averages = "; averages include collapsed victims" if kept else ""
    return f"{text}{ratio}{rule}{averages}."


def cells(selected: DataFrame, metric: str) -> DataFrame:
    """What is printed, attacks and Average x defenses: percent, spread over seeds, mark.

    A cell whose mean lacks seeds says how many it has: `80.00 ± 1.00 (2 of 3)§`. An Average over
    such cells is marked.
    """
    mean, std = (100 * tables.pivot(selected, metric, how) for how in ("mean", "std"))
    states = tables.cell_states(selected)
    marks = seed_counts(selected, tables.seeds_of(selected))[mean.columns]
    states = states.reindex_like(mean).fillna("ok")

    def printed(value: float, spread: float, state: str, seeds: str) -> str:
        if state in tables.ABSENT:
            return MARKS[state]
        text = "-" if np.isnan(value) else f"{value:.2f}"
        spreads = "" if np.isnan(spread) else f" ± {spread:.2f}"
        return text + spreads + seeds * (text != "-") + MARKS.get(state, "")

    frames = (mean, std, states, marks)
    rows = zip(*(frame.to_numpy() for frame in frames), strict=True)
    text = [[printed(*cell) for cell in zip(*row, strict=True)] for row in rows]
    return DataFrame(text, index=mean.index, columns=mean.columns)


def seed_counts(selected: DataFrame, numbers: DataFrame) -> DataFrame:
    """What attacks and Average x defenses print where seeds are missing, "" where none is.

    numbers: attacks x defenses, how many seeds enter a cell.
    """
    seeds = selected["seed"].nunique()
    text = numbers.map(lambda number: f" ({number} of {seeds})" if number < seeds else "")
    fewer = (numbers.loc[tables.averaged_attacks(selected)] < seeds).any()
    text.loc["Average"] = fewer.map({True: MARKS["fewer seeds"], False: ""})
    return text


def cell_lines(
    selected: DataFrame, titles: Mapping[str, str], lines: MultiIndex
) -> tuple[DataFrame, DataFrame]:
    """(text, numbers) with a line for each (attack, defense) and a column for each metric.

    `titles` maps metrics to titles of columns; numbers are in percent, those of several seeds with
    spread and count.
    """
    text, numbers = DataFrame(index=lines), DataFrame(index=lines)
    for metric, title in titles.items():
        printed = cells(selected, metric).stack().astype(object)
        text[title] = printed.reindex(lines, fill_value="-")
        mean, std = (tables.pivot(selected, metric, how) for how in ("mean", "std"))
        numbers[title] = 100 * mean.stack().reindex(lines)
        numbers[f"{title} std"] = 100 * std.stack().reindex(lines)
    numbers["n"] = tables.seeds_of(selected).stack().reindex(lines).astype("Int64")
    return text, _several(selected, numbers)


def _several(selected: DataFrame, numbers: DataFrame) -> DataFrame:
    """The numbers, without the columns that say nothing of a single seed: spread and count."""
    if selected["seed"].nunique() > 1:
        return numbers
    return numbers[[name for name in numbers if not re.search(r"(^| )(std|n)$", str(name))]]


def attack_titles(selected: DataFrame) -> dict[str, str]:
    """The attacks with what is printed for them: marked where the Average leaves them out."""
    averaged = tables.averaged_attacks(selected)
    attacks = tables.labels_of(selected)[0]
    return {attack: attack if attack in averaged else attack + LEFT_OUT for attack in attacks}


def mark_notes(selected: DataFrame) -> tuple[str, ...]:
    """A footnote for each state of a cell that has a mark and occurs.

    Of runs without results a footnote for each reason.
    """
    states, notes = tables.cell_states(selected), []
    for state, mark in MARKS.items():
        name = state if mark == state else f"{mark} {state}"
        if state in NO_RESULT:
            notes += [f"{name}: {text}" for text in _without_results(selected, state)]
            continue
        marked = [(d, a) for d in states.columns for a in states.index if states.at[a, d] == state]
        if marked:
            defenses, attacks = (Series(names) for names in zip(*marked, strict=True))
            notes.append(f"{name}{MEANINGS.get(state, '')}: {grouped(defenses, attacks)}.")
    return tuple(notes)


def _without_results(selected: DataFrame, status: str) -> list[str]:
    """The runs of a status, `FT (LF, SIG seed 1): reason`, a line for each reason."""
    runs = selected.loc[selected["status"] == status, ["defense", "attack", "seed", "note"]]
    if status == "missing":  # cells may have no row at all
        attacks, defenses = tables.labels_of(selected)
        cells = MultiIndex.from_product([defenses, attacks], names=["defense", "attack"])
        gone = cells.difference(MultiIndex.from_frame(selected[["defense", "attack"]]), sort=False)
        runs = pd.concat([runs, gone.to_frame(index=False).assign(seed=-1, note="")])
    total, lines = selected["seed"].nunique(), []
    for note, alike in runs.groupby("note", sort=False):
        names = []
        for (defense, attack), cell in alike.groupby(["defense", "attack"], sort=False):
            seeds = "/".join(map(str, cell["seed"]))
            part = "" if len(cell) == total or seeds == "-1" else f" seed {seeds}"
            names.append((str(defense), str(attack) + part))
        named = grouped(*(Series(column) for column in zip(*names, strict=True)))
        lines.append(f"{named}: {note!s}" if note else f"{named}.")
    return lines


@remembered
def footnotes(selected: DataFrame) -> tuple[str, ...]:
    """The footnotes of a table with an Average: marks, and what the Average leaves out."""
    notes, averaged = [*mark_notes(selected)], tables.averaged_attacks(selected)
    if left_out := [a for a in tables.labels_of(selected)[0] if a not in averaged]:
        why = "left out of the Average, undefended model not sound"
        notes.append(f"{LEFT_OUT} {why}: {', '.join(left_out)}.")
    if tables.pivot(selected, "acc").loc["Average"].isna().any():
        notes.append("No Average for a defense that lacks a sound score for an attack it covers.")
    return tuple(notes)


def metric_table(selected: DataFrame, metric: str, notes: tuple[str, ...] = ()) -> Table:
    """The table of one metric (a key of `METRICS`) for one (dataset, model) pair, in percent."""
    mean, std = (100 * tables.pivot(selected, metric, how) for how in ("mean", "std"))
    states, averaged = tables.cell_states(selected), tables.averaged_attacks(selected)
    sound = states.isin(tables.SOUND).reindex(mean.index, fill_value=True)[mean.columns]
    ranks = tables.rank(mean[sound].loc[[*averaged, "Average"]].reindex(mean.index), metric)
    text = cells(selected, metric)
    text.insert(0, "Attack", [*attack_titles(selected).values(), "Average"])
    counts = tables.average_seeds(selected).reindex(columns=mean.columns).add_suffix(" n")
    numbers = _several(selected, mean.join([std.add_suffix(" std"), counts.astype("Int64")]))
    numbers.insert(0, "attack", mean.index)
    numbers["status"] = states.apply(
        lambda row: "; ".join(f"{d} {s}" for d, s in row.items() if s != "ok"), axis=1
    )
    better = "lower" if metric == "asr" else "higher"
    what = f"{METRICS[metric]} in percent, {better} is better"
    if ranks.notna().any(axis=None):
        what += "; best defense bold, second underlined"
    text, ranks = text.reset_index(drop=True), ranks.reset_index(drop=True)
    return Table(caption(selected, what), text, numbers, ranks, footnotes(selected) + notes)


def averages_table(selected: DataFrame, shown: Sequence[str] = tuple(METRICS)) -> Table | None:
    """The Average of the metrics `shown` for each defense of one (dataset, model) pair, in percent.

    None where an Average covers fewer than two attacks.
    """
    averaged = tables.averaged_attacks(selected)
    if len(averaged) < 2:
        return None
    defenses = tables.labels_of(selected)[1]
    text, numbers, ranks = (DataFrame(index=defenses) for _ in range(3))
    for metric, title in METRICS.items():
        if metric not in shown:
            continue
        mean, std = (
            100 * tables.pivot(selected, metric, how).loc[["Average"]] for how in ("mean", "std")
        )
        text[title] = cells(selected, metric).loc["Average"].reindex(defenses, fill_value="-")
        numbers[title] = mean.loc["Average"].reindex(defenses)
        numbers[f"{title} std"] = std.loc["Average"].reindex(defenses)
        ranks[title] = tables.rank(mean, metric).loc["Average"].reindex(defenses)
    numbers["n"] = tables.average_seeds(selected).loc["Average"].astype("Int64")
    numbers = _several(selected, numbers)
    text, numbers = (frame.rename_axis("Defense").reset_index() for frame in (text, numbers))
    what = f"Average over {len(averaged)} attacks in percent; best defense bold, second underlined"
    ranks = ranks.reset_index(drop=True)
    return Table(caption(selected, what), text, numbers, ranks, footnotes(selected))


def trigger_table(selected: DataFrame, shown: Sequence[str] = tuple(METRICS)) -> Table | None:
    """The scores of each trigger, for one (dataset, model) pair (table 24 of the SAU paper).

    None where no attack has two triggers. shown: metrics.
    """
    if "asr_1" not in selected or selected["asr_1"].isna().all():
        return None
    attacks = selected.loc[selected["asr_1"].notna(), "attack"].unique()
    several = selected[selected["attack"].isin(attacks)]
    titles = {"acc": "ACC"} | {name: title for name, title in PARTS.items() if name in selected}
    titles = {name: title for name, title in titles.items() if is_shown(name, shown)}
    lines = MultiIndex.from_product(tables.labels_of(several), names=["Attack", "Defense"])
    text, numbers = (frame.reset_index() for frame in cell_lines(several, titles, lines))
    what = caption(several, "Each trigger of an attack with two, in percent")
    return Table(what, text, numbers, DataFrame(), mark_notes(several), left=2)
