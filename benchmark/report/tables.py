"""The numbers of tables: which row of a run counts, DER, means over seeds, averages, ranks.

A row is one scored model, with metrics as shares in [0, 1] (`benchmark.rows.COLUMNS`). Each of
these rules picks the row of a run that counts:

* `last`: the last round.
* `fixed:V`: the candidate whose setting equals V (the SAU paper uses 0.4 for ANP).
* `own`: the candidate with the largest setting among those that lose at most 10 % of the accuracy,
  on the defender's clean data, of the model before the defense. It looks at no test data.
* `oracle`: the candidate with the lowest test ASR among those whose test ACC is within 10 % of the
  victim's and whose test ASR is below it. It looks at test data: for comparison only.

Where no candidate satisfies `own` or `oracle`, the model stays as it was before the defense: the
row has the victim's scores and no setting. A run from which its rule picks nothing has no result:
it costs its cell, not the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pandas import DataFrame, Series

from sau_bench.benchmark.report.memory import remembered
from sau_bench.benchmark.rows import AXES, NO_RESULT, PART_COLUMNS, UNDEFENDED, check_rule, reason

KEPT = "collapsed, averaged"
"""The status of a collapsed victim that averages include (`keep_collapsed`)."""
COUNTED = ("ok", KEPT)
"""Statuses of runs, and of their victims, whose scores enter means, averages and ranks."""
SOUND = (*COUNTED, "fewer seeds")
"""States of a cell (`cell_states`) whose score enters averages and ranks."""
ABSENT = ("not applicable", *NO_RESULT)
"""Statuses of runs, and states of cells, without a score, the first one first."""
SCORED = ("diverged", "collapsed", KEPT)
"""Statuses of runs with a score that is marked, the worst first."""
TOLERATED_LOSS = 0.10
"""The share of its accuracy that a model may lose under the rules `own` and `oracle`."""


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


def choose(run: DataFrame, rule: str, victim: Series) -> Series:
    """The row of one run (its rounds or candidates) that `rule` picks.

    Raises:
        ValueError: a rule that does not exist or does not fit the run, a setting that no candidate
            has, `own` without settings or without the accuracy of the model before the defense, or
            a victim without scores where they are needed.
    """
    name = f"{run['defense'].iloc[0]} against {run['attack'].iloc[0]}"
    steps = run.sort_values("step")
    last = steps.iloc[-1]
    if steps["acc"].isna().all():  # without any score there is nothing to pick from
        return last
    check_rule(rule, name)
    if rule == "last":
        return last
    if (steps["kind"] != "candidates").any():
        raise ValueError(f"{name}: rule {rule!r} needs candidates, the run has {last['kind']}")
    if rule == "own":
        before = steps["own_acc_before"]
        if before.isna().any():
            raise ValueError(
                f"{name}: rule 'own' needs own_acc_before, which is empty in its rows; run the "
                "defense again, or accepted: last, fixed:V, oracle"
            )
        accurate = steps[steps["own_acc"] >= (1 - TOLERATED_LOSS) * before - 1e-9]
        if accurate.empty:
            return _unchanged(last, victim, name)
        if accurate["value"].isna().any():
            raise ValueError(f"{name}: rule 'own' needs a setting of every candidate")
        return accurate.iloc[accurate["value"].argmax()]
    if rule == "oracle":
        _check_scored(victim, name)
        close = (steps["acc"] - victim["acc"]).abs() < TOLERATED_LOSS * victim["acc"] - 1e-9
        better = steps[close & (steps["asr"] < victim["asr"])]
        if better.empty:
            return _unchanged(last, victim, name)
        return better.iloc[better["asr"].argmin()]
    hits = steps[(steps["value"] - float(rule.removeprefix("fixed:"))).abs() <= 1e-6]
    if hits.empty:
        values = ", ".join(f"{value:g}" for value in steps["value"].dropna()) or "none"
        raise ValueError(f"{name}: no candidate for {rule!r}; its values: {values}")
    return hits.iloc[0]


def _unchanged(row: Series, victim: Series, name: str) -> Series:
    """The row of a run whose result is the victim as it was."""
    _check_scored(victim, name)
    scores = [column for column in ("acc", "asr", "racc", *PART_COLUMNS) if column in row]
    # "collapsed" is the status of a victim; the model is as it was trained.
    status = "ok" if victim["status"] in ("collapsed", KEPT) else victim["status"]
    before = {"value": np.nan, "own_acc": row["own_acc_before"], "status": status}
    return Series({**row, **victim[scores], **before})


def _check_scored(victim: Series, name: str) -> None:
    if np.isnan(victim["acc"]):
        raise ValueError(f"{name}: the rule needs the victim's scores, which are missing")


def keep_collapsed(rows: DataFrame) -> DataFrame:
    """The rows with a status for collapsed victims that enters averages, as in the paper."""
    return rows.assign(status=rows["status"].replace("collapsed", KEPT))


def select(rows: DataFrame, rules: Mapping[str, str]) -> DataFrame:
    """One row for each cell of a grid (`AXES`), with the columns `rule`, `der`, `victim_status`.

    `rules` maps a defense's label to the rule that replaces the one in the column `select`. A run
    for which `choose` raises has no scores, the status "unusable", and the reason as its note.

    Raises:
        ValueError: an unknown rule in `rules`; among the runs with results a victim without a row,
            the same step of a job twice, or several jobs under the same labels, which a table would
            mix (`benchmark.report.read.read_rows` leaves none).
    """
    for defense, rule in rules.items():
        check_rule(rule, defense)
    victims = rows[rows["kind"] == "victim"].drop_duplicates("key").set_index("key")
    results = rows[~rows["status"].isin(NO_RESULT)]
    if (twice := results.duplicated(["key", "step"])).any():
        raise ValueError(f"two rows for {results.loc[twice, [*AXES, 'step']].iloc[0].to_dict()}")
    if orphans := sorted(set(results["victim"]) - set(victims.index)):
        raise ValueError(f"no row for the victims {', '.join(orphans)}")
    chosen: list[dict[Any, Any]] = []
    for labels, run in rows.groupby(list(AXES), sort=False):
        if run["key"].nunique() > 1:
            keys = ", ".join(run["key"].unique())
            raise ValueError(f"several jobs share the labels {labels}: {keys}")
        row, rule = run.iloc[0], ""
        if row["kind"] != "victim":
            rule = rules.get(row["defense"], row["select"])
            if row["status"] not in NO_RESULT:
                try:
                    row = choose(run, rule, victims.loc[row["victim"]])
                except ValueError as error:
                    row = _without_scores(row, error)
        chosen.append({**row.to_dict(), "rule": rule})
    selected = DataFrame.from_records(chosen)
    undefended = victims.reindex(selected["victim"]).reset_index(drop=True)
    scores = der(selected["acc"], selected["asr"], undefended["acc"], undefended["asr"])
    scores = np.where(selected["kind"] == "victim", np.nan, scores)
    status = undefended["status"].fillna("missing")
    return selected.assign(der=scores, victim_status=status)


def _without_scores(row: Series, why: ValueError) -> Series:
    names = ("acc", "asr", "racc", *PART_COLUMNS, "own_acc", "own_acc_before", "value")
    scores = {name: np.nan for name in names if name in row}
    return Series({**row, **scores, "step": 0, "status": "unusable", "note": reason(why)})


def labels_of(selected: DataFrame) -> tuple[list[str], list[str]]:
    """Attacks and defenses of one (dataset, model) pair in order of appearance, undefended first.

    Raises:
        ValueError: `selected` covers several pairs.
    """
    if any(selected[name].nunique() > 1 for name in ("dataset", "model")):
        pairs = selected[["dataset", "model"]].drop_duplicates()
        raise ValueError(f"one table for several pairs: {pairs.to_dict('records')}")
    defenses = [d for d in selected["defense"].unique() if d != UNDEFENDED]
    return list(selected["attack"].unique()), [UNDEFENDED, *defenses]


def counted(selected: DataFrame) -> Series:
    """Which runs enter means: the model and its victim have sound scores."""
    return selected["status"].isin(COUNTED) & selected["victim_status"].isin(COUNTED)


@remembered
def cell_states(selected: DataFrame) -> DataFrame:
    """Attacks x defenses: the state of each cell over its seeds.

    Of a cell with a score the worst status of its runs (`SCORED`); else "fewer seeds" where some
    seeds enter its mean and others do not, and "ok" where all do or none does. Of a cell without
    a score, or with a seed for which the method is not applicable, why; "missing" without any row.
    """
    seeds = selected["seed"].nunique()
    attacks, defenses = labels_of(selected)
    cells: dict[tuple[str, str], list[tuple[str, bool]]] = {
        (attack, defense): [] for attack in attacks for defense in defenses
    }
    columns = (selected["attack"], selected["defense"], selected["status"], counted(selected))
    for attack, defense, status, enters in zip(*columns, strict=True):
        cells[attack, defense].append((status, enters))
    states = [state_of(cells[a, d], seeds) for a in attacks for d in defenses]
    table = np.array(states, dtype=object).reshape(len(attacks), len(defenses))
    return DataFrame(table, index=attacks, columns=defenses)


def state_of(runs: Sequence[tuple[str, bool]], seeds: int) -> str:
    """The state of a cell of several runs: the status of each, and whether it enters means.

    seeds: how many runs the cell should have.
    """
    statuses = {status for status, _ in runs}
    absent = [status for status in ABSENT if status in statuses]
    if len(absent) == len(statuses) or "not applicable" in absent:
        return next(iter(absent), "missing")
    marked = next((status for status in SCORED if status in statuses), "ok")
    number = sum(enters for _, enters in runs)
    fewer = 0 < number < seeds or len(runs) < seeds or bool(absent)
    return "fewer seeds" if marked == "ok" and fewer else marked


@remembered
def seeds_of(selected: DataFrame) -> DataFrame:
    """Attacks x defenses: how many seeds enter the mean of each cell, see `pivot`."""
    entering = selected.assign(sound=counted(selected), scored=selected["acc"].notna())
    cells = entering.groupby(["attack", "defense"])[["sound", "scored"]].sum()
    attacks, defenses = labels_of(selected)
    numbers = cells["sound"].where(cells["sound"] > 0, cells["scored"]).unstack()
    return numbers.reindex(index=attacks, columns=defenses).fillna(0).astype(int)


def average_seeds(selected: DataFrame) -> DataFrame:
    """`seeds_of` with a row Average: in how many seeds every attack of the Average is sound."""
    numbers, averaged = seeds_of(selected), averaged_attacks(selected)
    sound = selected[counted(selected) & selected["attack"].isin(averaged)]
    attacks = sound.groupby(["defense", "seed"])["attack"].nunique()
    whole = attacks.eq(len(averaged)).groupby("defense").sum()
    numbers.loc["Average"] = whole.reindex(numbers.columns).fillna(0).astype(int)
    return numbers


def averaged_attacks(selected: DataFrame) -> list[str]:
    """The attacks that the Average covers: those whose undefended models are all sound."""
    return _averaged(cell_states(selected))


def _averaged(states: DataFrame) -> list[str]:
    sound = states[UNDEFENDED].isin(SOUND)
    return list(sound.index[sound])


@remembered
def pivot(
    selected: DataFrame, metric: str, statistic: Literal["mean", "std"] = "mean"
) -> DataFrame:
    """Attacks x defenses of one (dataset, model) pair, over the seeds, in shares; last row Average.

    A cell is taken over its sound seeds (`counted`), or over all when none is. The
    Average is the mean over attacks of the values of the cells, without the attacks whose victim is
    not sound (`averaged_attacks`), and empty for a defense that lacks a sound cell for any of the
    others. DER has no column for the undefended model.
    """
    attacks, defenses = labels_of(selected)
    if metric == "der":
        defenses = defenses[1:]
    # Lists and not groups: of a few hundred rows they are ten times as fast.
    every: dict[tuple[str, str], list[float]] = {}
    sound: dict[tuple[str, str], dict[int, float]] = {}
    columns = ("attack", "defense", "seed", metric)
    cells = zip(*(selected[name].tolist() for name in columns), counted(selected), strict=True)
    for attack, defense, seed, score, entering in cells:
        if not np.isnan(score):
            every.setdefault((attack, defense), []).append(score)
            if entering:
                sound.setdefault((attack, defense), {})[seed] = score
    taken = {cell: [*sound.get(cell, {}).values()] or scores for cell, scores in every.items()}
    values = [[_over(taken.get((a, d), []), statistic) for d in defenses] for a in attacks]
    table = DataFrame(values, index=attacks, columns=defenses, dtype=float)
    states = cell_states(selected)
    averaged = _averaged(states)
    average = table.loc[averaged].mean(skipna=False)
    if statistic == "std":
        seeds = selected["seed"].unique()
        for defense in defenses:
            of_attacks = [sound.get((attack, defense), {}) for attack in averaged]
            whole = [seed for seed in seeds if all(seed in scores for scores in of_attacks)]
            means = [_over([scores[seed] for scores in of_attacks], "mean") for seed in whole]
            average[defense] = _over(means, "std")
    complete = states.loc[averaged].isin(SOUND).all()
    table.loc["Average"] = average.where(complete).reindex(defenses)
    return table


def _over(scores: Sequence[float], statistic: Literal["mean", "std"]) -> float:
    """Mean, or standard deviation (n - 1); NaN of too few."""
    if len(scores) < (1 if statistic == "mean" else 2):
        return np.nan
    return float(np.mean(scores) if statistic == "mean" else np.std(scores, ddof=1))


def rank(percents: DataFrame, metric: str) -> DataFrame:
    """Dense ranks in each row among the defenses, 1 the best; equal two decimals share a rank.

    The undefended model is not ranked, nor is a row with a single value.
    """
    printed = percents.map(lambda value: float(f"{value:.2f}"))
    printed = printed.drop(columns=UNDEFENDED, errors="ignore")
    ranks = printed.rank(axis=1, method="dense", ascending=metric == "asr")
    return ranks[printed.count(axis=1) > 1].reindex_like(percents)
