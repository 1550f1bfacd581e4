"""Rows to tables: selection rules, DER, attacks x defenses with averages and ranks, writers.

A row is one scored model with metrics as shares in [0, 1] (columns:
`benchmark.report.write.COLUMNS`); what is printed is in percent. Each of these rules picks the one
row of a run that counts:

* `last`: the last round.
* `fixed:V`: the candidate whose setting equals V (the SAU paper uses 0.4 for ANP).
* `own`: the largest setting that costs at most 10 % of the first candidate's accuracy on the
  defender's clean data. No test data involved.
* `oracle`: the lowest test ASR among candidates whose test ACC is within 10 % of the victim's, or
  the victim itself when none lowers the ASR. It looks at test data: for comparison only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pandas import DataFrame, Series

CELL = ["dataset", "model", "attack", "defense", "seed"]
UNDEFENDED = "No Defense"
METRICS = {"acc": "ACC", "asr": "ASR", "racc": "R-ACC", "der": "DER"}
STATUSES = ("ok", "diverged", "collapsed", "not applicable")  # of a row
SOUND, ABSENT = ("ok", "fewer seeds"), ("not applicable", "not run")  # of a cell of a table
MARKS = {"diverged": "†", "collapsed": "‡", "fewer seeds": "§"}
MARKS |= {"not applicable": "n/a", "not run": "-"}
RULES = r"last|own|oracle|fixed:-?\d*\.?\d+(e-?\d+)?"
TOLERATED_LOSS = 0.10
TEX = str.maketrans(
    {c: f"\\{c}" for c in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "±": r"$\pm$"}
    | {"†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "¶": r"$^\P$"}
)


def pipes(lines: Sequence[Iterable[str]], left: int) -> str:
    """A Markdown table, the header first; the first `left` columns are aligned to the left."""
    rows = [list(line) for line in lines]
    rows.insert(1, ["---"] * left + ["---:"] * (len(rows[0]) - left))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


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

    def styled(self, text: DataFrame, best: str, second: str) -> DataFrame:
        """`text` with `best` or `second`, both format strings, around the ranked cells."""
        ranks = self.ranks.reindex_like(text)
        others = text.map(second.format).where(ranks == 2, text)
        return text.map(best.format).where(ranks == 1, others)

    def csv(self) -> str:
        """Plain numbers with two decimals."""
        return self.numbers.to_csv(index=False, float_format="%.2f", lineterminator="\n")

    def markdown(self) -> str:
        """Caption, pipe table (best bold, second best underlined), notes."""
        cells = self.styled(self.text, "**{}**", "<u>{}</u>")
        table = pipes([cells.columns, *cells.to_numpy()], self.left)
        return "\n\n".join([self.caption, table, *self.notes]) + "\n"

    def latex(self) -> str:
        """The same as a `table` float; it needs the package booktabs."""
        escaped = self.text.map(lambda cell: cell.translate(TEX))
        cells = self.styled(escaped, r"\textbf{{{}}}", r"\underline{{{}}}")
        cells.columns = cells.columns.map(lambda name: name.translate(TEX))
        lines = cells.style.hide(axis="index").to_latex(
            hrules=True,
            position_float="centering",
            caption=self.caption.translate(TEX),
            column_format="l" * self.left + "r" * (len(cells.columns) - self.left),
        )
        lines = lines.replace("\nAverage &", "\n\\midrule\nAverage &")
        notes = "".join(f"\\par {note.translate(TEX)}\n" for note in self.notes)
        return lines.replace("\\end{table}", notes + "\\end{table}")


def der(
    acc: npt.ArrayLike, asr: npt.ArrayLike, acc_none: npt.ArrayLike, asr_none: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Defense effectiveness rating of shares in [0, 1], elementwise; NaN stays NaN.

    [max(0, drop of ASR) - max(0, drop of ACC) + 1] / 2 (SAU paper, arXiv:2307.10562, section 4.1):
    in [0, 1], 0.5 for a defense that changes nothing.
    """
    gain = np.maximum(0.0, np.subtract(asr_none, asr))
    loss = np.maximum(0.0, np.subtract(acc_none, acc))
    return np.asarray((gain - loss + 1) / 2, dtype=np.float64)


def check(rule: str, name: str) -> None:
    """Raise a ValueError unless `rule`, given for `name`, is a selection rule."""
    if not re.fullmatch(RULES, rule):
        accepted = "last, fixed:V (V a number), own, oracle"
        raise ValueError(f"{name}: selection rule {rule!r} is unknown; accepted: {accepted}")


def choose(run: DataFrame, rule: str, victim: Series) -> Series:
    """The row of one run (its rounds or candidates) that `rule` picks.

    Raises:
        ValueError: a rule that does not exist, does not fit the run, or finds no candidate.
    """
    name = f"{run['defense'].iloc[0]} against {run['attack'].iloc[0]}"
    steps = run.sort_values("step")
    first, last = steps.iloc[0], steps.iloc[-1]
    if steps["acc"].isna().all():  # without any score there is nothing to pick from
        return last
    check(rule, name)
    if rule == "last":
        return last
    if (steps["kind"] != "candidates").any():
        raise ValueError(f"{name}: rule {rule!r} needs candidates, the run has {first['kind']}")
    if rule == "own":
        floor = (1 - TOLERATED_LOSS) * first["own_acc"]
        kept = steps[steps["own_acc"] >= floor - 1e-9]
        return first if kept.empty else kept.loc[kept["value"].idxmax()]
    if rule == "oracle":
        close = (steps["acc"] - victim["acc"]).abs() < TOLERATED_LOSS * victim["acc"] - 1e-9
        better = steps[close & (steps["asr"] < victim["asr"])]
        if better.empty:
            scores = victim[["acc", "asr", "racc", "status"]]
            return Series({**first, "value": np.nan, **scores})
        return better.loc[better["asr"].idxmin()]
    hits = steps[(steps["value"] - float(rule.removeprefix("fixed:"))).abs() <= 1e-6]
    if hits.empty:
        values = ", ".join(f"{value:g}" for value in steps["value"])
        raise ValueError(f"{name}: no candidate for {rule!r}; its values: {values}")
    return hits.iloc[0]


def select(rows: DataFrame, rules: Mapping[str, str]) -> DataFrame:
    """One row per (dataset, model, attack, defense, seed), with `rule`, `der`, `victim_status`.

    `rules` maps a defense's label to the rule that replaces the one in its own `select` column.

    Raises:
        ValueError: as `choose`; an unknown rule; a victim without a row; a row given twice;
            several jobs under the same labels, which a table would mix.
    """
    for defense, rule in rules.items():
        check(rule, defense)
    victims = rows[rows["kind"] == "victim"].set_index("key")
    if (twice := rows.duplicated(["key", "step"])).any():
        raise ValueError(f"a row given twice: {rows.loc[twice, [*CELL, 'step']].iloc[0].to_dict()}")
    if orphans := sorted(set(rows["victim"]) - set(victims.index)):
        raise ValueError(f"no row for the victims {', '.join(orphans)}")
    chosen: list[dict[Any, Any]] = []
    for names, run in rows.groupby(CELL, sort=False):
        if run["key"].nunique() > 1:
            keys = ", ".join(run["key"].unique())
            raise ValueError(f"several jobs share the labels {names}: {keys}")
        row, rule = run.iloc[0], ""
        if row["kind"] != "victim":
            rule = rules.get(row["defense"], row["select"])
            row = choose(run, rule, victims.loc[row["victim"]])
        chosen.append({**row.to_dict(), "rule": rule})
    selected = DataFrame.from_records(chosen)
    own = victims.loc[selected["victim"]].reset_index()
    scores = der(selected["acc"], selected["asr"], own["acc"], own["asr"])
    return selected.assign(
        der=np.where(selected["kind"] == "victim", np.nan, scores), victim_status=own["status"]
    )


def labels(selected: DataFrame, metric: str) -> tuple[list[str], list[str]]:
    """Attacks and defenses of one (dataset, model) pair in order of appearance, undefended first.

    Raises a ValueError if `selected` covers several pairs.
    """
    if len(pairs := selected[["dataset", "model"]].drop_duplicates()) > 1:
        raise ValueError(f"one table for several pairs: {pairs.to_dict('records')}")
    defenses = [d for d in selected["defense"].unique() if d != UNDEFENDED]
    return list(selected["attack"].unique()), [UNDEFENDED] * (metric != "der") + defenses


def statuses(selected: DataFrame) -> DataFrame:
    """Attacks x defenses: the first status that is not "ok", "fewer seeds", "not run", or "ok"."""
    seeds = selected["seed"].nunique()

    def state(cell: Series) -> str:
        complete = "ok" if len(cell) == seeds else "fewer seeds"
        return next((status for status in cell if status != "ok"), complete)

    cells = selected.groupby(["attack", "defense"])["status"].agg(state).unstack()
    attacks, defenses = labels(selected, "acc")
    return cells.reindex(index=attacks, columns=defenses).fillna("not run")


def counted(selected: DataFrame) -> list[str]:
    """The attacks that the Average covers: those whose undefended models are all sound."""
    sound = statuses(selected)[UNDEFENDED].isin(SOUND)
    return list(sound.index[sound])


def pivot(
    selected: DataFrame, metric: str, statistic: Literal["mean", "std"] = "mean"
) -> DataFrame:
    """Attacks x defenses of one (dataset, model) pair, over the seeds, in shares; last row Average.

    A cell is taken over its sound seeds (model and victim "ok"), or over all when none is. The
    Average is the mean over attacks of the per-attack values, without the attacks whose victim is
    not sound (`counted`), and empty for a defense that lacks a sound cell for any of the others.
    """
    attacks, defenses = labels(selected, metric)
    sound = (selected["status"] == "ok") & (selected["victim_status"] == "ok")
    scores = selected.assign(score=selected[metric], sound=selected[metric].where(sound))
    by_cell = scores.groupby(["attack", "defense"])
    every, some = by_cell["score"].agg(statistic), by_cell["sound"].count() > 0
    cells = by_cell["sound"].agg(statistic).where(some, every).unstack()
    cells = cells.reindex(index=attacks, columns=defenses)
    kept = counted(selected)
    average = cells.loc[kept].mean(skipna=False)
    if statistic == "std":
        runs = scores[scores["attack"].isin(kept)]
        by_seed = runs.pivot_table("sound", ["defense", "seed"], "attack").mean(
            axis=1, skipna=False
        )
        average = by_seed.groupby("defense").std()
    whole = statuses(selected).loc[kept].isin(SOUND).all()
    cells.loc["Average"] = average.where(whole).reindex(defenses)
    return cells


def rank(percents: DataFrame, metric: str) -> DataFrame:
    """Dense ranks per row among the defenses, 1 the best, by two decimals as printed; ties share.

    The undefended model is not ranked, nor is a row with a single value.
    """
    printed = percents.map(lambda value: float(f"{value:.2f}"))
    printed = printed.drop(columns=UNDEFENDED, errors="ignore")
    ranks = printed.rank(axis=1, method="dense", ascending=metric == "asr")
    return ranks[printed.count(axis=1) > 1].reindex_like(percents)
