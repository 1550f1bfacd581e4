"""Cost of a run, and time until a defense takes effect."""

from __future__ import annotations

import numpy as np
from pandas import DataFrame
from table_rows import VICTIM, row

from sau_bench.benchmark.report.costs import cost_table, effect_table
from sau_bench.benchmark.report.tables import select


def test_cost_counts_whole_runs():
    rows = [VICTIM | {"seconds": 999.0}]
    rows += [
        row("BadNets", "FT", 0.9, 0.1, step=s, seconds=10.0 * s, peak_mib=m)
        for s, m in ((1, 9), (2, 5))
    ]
    rows += [row("BadNets", "SAU", 0.9, 0.1, status="diverged")]
    table = cost_table(DataFrame(rows))
    assert table is not None
    assert table.text.to_numpy().tolist() == [["FT", "1", "20.00", "9.00"]]


def timed(defense, *scores, kind="rounds", attack="BadNets"):
    """A run that takes 10 s a step; scores are (acc, asr)."""
    return [
        row(attack, defense, acc, asr, step=s, seconds=10.0 * s, kind=kind, value=0.1 * s)
        for s, (acc, asr) in enumerate(scores, start=1)
    ]


def test_effect_is_the_first_step_below_the_asr_that_keeps_the_acc():
    rows = [
        VICTIM | {"acc": 0.9, "asr": 1.0},
        *timed("late", (0.5, 0.01), (0.9, 0.05), (0.82, 0.04), (0.9, 0.3)),
        *timed("costly", (0.80, 0.01), (0.805, 0.01)),
        *timed("pruned", (0.9, 0.5), (0.88, 0.01), (0.2, 0.0), kind="candidates"),
    ]
    selected = select(DataFrame(rows), {"pruned": "fixed:0.2"})
    table = effect_table(DataFrame(rows), selected, None)
    assert table is not None
    # Candidates are all made before one is selected.
    assert table.text.loc[0].tolist() == ["BadNets", "30.0", ">20.0", "30.0"]
    assert table.text.loc[1].tolist() == ["Average", "30.0", ">20.0", "30.0"]
    absolute = effect_table(DataFrame(rows), selected, 0.7)
    assert absolute is not None and absolute.text.loc[0].tolist() == [
        "BadNets",
        "30.0",
        "10.0",
        "30.0",
    ]
    assert "above 70 %" in absolute.caption and "nine tenths" in table.caption


def test_effect_counts_whole_runs_where_it_never_comes():
    rows = [VICTIM | {"acc": 0.9, "asr": 1.0}, *timed("FT", (0.9, 0.9), (0.9, 0.8))]
    rows += [row("LF", "No Defense", 0.9, 1.0, key="LFN", victim="LFN")]
    rows += [step | {"victim": "LFN"} for step in timed("FT", (0.9, 0.0), (0.9, 0.0), attack="LF")]
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), None)
    assert table is not None
    assert table.numbers["FT"].tolist() == [20.0, 10.0, 15.0]
    assert table.text["FT"].tolist() == [">20.0", "10.0", ">15.0"]
    assert table.numbers["lower bounds"].tolist() == ["FT", "", "FT"]
    assert effect_table(DataFrame([VICTIM]), select(DataFrame([VICTIM]), {}), None) is None


def test_effect_marks_what_has_no_time():
    rows = [VICTIM, *timed("FT", (0.9, 0.0))]
    rows += [step | {"status": "diverged"} for step in timed("SAU", (0.1, 0.0))]
    rows += [row("BadNets", "NAD", np.nan, np.nan, status="not applicable")]
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), None)
    assert table is not None
    assert table.text.loc[0].tolist() == ["BadNets", "10.0", "†", "n/a"]
    assert table.notes[:2] == ("† diverged: SAU (BadNets).", "n/a not applicable: NAD (BadNets).")


def test_what_never_takes_effect_is_neither_ranked_nor_averaged_as_if_it_had():
    """FT, which never does, is the fastest: it used to be the best on average."""
    rows = []
    for attack in ("BadNets", "LF"):
        rows += [row(attack, "No Defense", 0.9, 1.0)]
        rows += timed("FT", (0.9, 0.9), attack=attack)
        rows += timed("SAU", (0.9, 0.9), (0.9, 0.0), attack=attack)
        rows += timed("AT", (0.9, 0.9), (0.9, 0.9), (0.9, 0.0), attack=attack)
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), None)
    assert table is not None
    assert table.text.loc[2].tolist() == ["Average", ">10.0", "20.0", "30.0"]
    assert table.ranks["FT"].isna().all()
    assert table.ranks.loc[2, ["SAU", "AT"]].tolist() == [1, 2]
    assert table.csv().splitlines() == [
        "attack,FT,SAU,AT,lower bounds",
        "BadNets,10.00,20.00,30.00,FT",
        "LF,10.00,20.00,30.00,FT",
        "Average,10.00,20.00,30.00,FT",
    ]
    assert r"Average & $>$10.0 & \textbf{20.0} & \underline{30.0}" in table.latex()


def test_times_of_a_cell_that_lacks_seeds_say_how_many_it_has():
    rows = []
    for seed in (0, 1):
        ids = {"seed": seed, "victim": f"v{seed}"}
        rows += [row("BadNets", "No Defense", 0.9, 1.0, key=f"v{seed}") | ids]
        runs = timed("FT", (0.9, 0.0)) + timed("SAU", (0.9, 0.0)) + timed("NC", (0.9, 0.9))
        rows += [step | ids | {"key": f"{step['defense']}{seed}"} for step in runs]
    rows[-2] |= {"status": "diverged"}  # SAU
    rows[-3] |= {"status": "failed", "acc": np.nan, "asr": np.nan}  # FT
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), None)
    assert table is not None
    assert table.text.loc[0].tolist() == [
        "BadNets",
        "10.0 (1 of 2)§",
        "10.0 (1 of 2)†",
        ">10.0 ± 0.0",
    ]
    assert table.text.loc[1].tolist() == ["Average", "10.0§", "-", ">10.0 ± 0.0"]
    counts = table.numbers[["FT n", "SAU n", "NC n"]]
    assert counts.to_numpy().tolist() == [[1, 1, 2], [1, 0, 2]]


def test_no_time_without_the_scores_of_the_victim():
    rows = [VICTIM | {"acc": np.nan, "status": "failed"}, *timed("FT", (0.9, 0.0))]
    assert effect_table(DataFrame(rows), select(DataFrame(rows), {}), None) is None
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), 0.85)
    assert table is not None and table.text.loc[0, "FT"] == "10.0"
