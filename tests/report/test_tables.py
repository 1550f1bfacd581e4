"""DER, selection, averages and ranks, on rows small enough to check."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from table_rows import ANP, SCORES, VICTIM, candidates, grid, picked, row

from sau_bench.benchmark.report.render import caption, cells, footnotes, mark_notes, metric_table
from sau_bench.benchmark.report.tables import (
    averaged_attacks,
    cell_states,
    choose,
    der,
    keep_collapsed,
    pivot,
    rank,
    select,
)

share = st.floats(0, 1)


# --- DER ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acc", "asr", "acc_none", "asr_none", "expected"),
    [
        (0.8931, 0.0153, 0.9132, 0.9503, 0.95745),
        (0.9, 1.0, 0.9, 1.0, 0.5),
        (0.95, 0.5, 0.9, 1.0, 0.75),  # a gain of ACC is not rewarded
        (0.8, 1.0, 0.9, 0.7, 0.45),  # a rise of ASR is not punished
        (0.0, 1.0, 1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 1.0),
    ],
)
def test_der_by_hand(acc, asr, acc_none, asr_none, expected):
    assert der(acc, asr, acc_none, asr_none) == pytest.approx(expected)


@given(share, share, share, share)
def test_der_is_a_share_and_clips(acc, asr, acc_none, asr_none):
    value = der(acc, asr, acc_none, asr_none)
    assert 0 <= value <= 1
    assert der(max(acc, acc_none), asr, acc_none, asr_none) == der(
        acc_none, asr, acc_none, asr_none
    )
    assert der(acc, max(asr, asr_none), acc_none, asr_none) == der(
        acc, asr_none, acc_none, asr_none
    )


def test_der_is_elementwise_and_keeps_nan():
    assert der([0.9, np.nan], [0.0, 0.0], 0.9, 1.0) == pytest.approx([1.0, np.nan], nan_ok=True)


# --- selection ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "value"),
    [("last", 0.6), ("fixed:0.4", 0.4), ("fixed:0.4000001", 0.4), ("own", 0.4), ("oracle", 0.4)],
)
def test_rules_pick(rule, value):
    chosen = picked(*reversed(ANP), rule=rule)
    assert (chosen["value"], chosen["rule"]) == (value, rule)


def test_own_reads_no_test_score():
    spoilt = [run | {"acc": 0.1, "asr": 1.0} for run in ANP]
    assert picked(*spoilt, rule="own")["value"] == 0.4


def test_own_accepts_a_loss_of_exactly_a_tenth_of_the_model_before_the_defense():
    runs = candidates((0.1, 0.9, 1, 0.81), (0.2, 0.9, 1, 0.80), own_acc_before=0.9)
    assert picked(*runs, rule="own")["value"] == 0.1


def test_own_does_not_compare_with_the_first_candidate():
    """All thresholds cost a lot: relative to the first of them, the last would look harmless."""
    runs = candidates((0.2, 0.5, 0.1, 0.60), (0.4, 0.5, 0.1, 0.59), own_acc_before=0.95)
    chosen = picked(*runs, rule="own")
    assert (chosen["acc"], chosen["asr"], chosen["der"]) == (0.9, 1.0, 0.5)  # the victim
    assert np.isnan(chosen["value"]) and chosen["own_acc"] == 0.95


def test_own_needs_the_accuracy_before_the_defense():
    old = [run | {"own_acc_before": np.nan} for run in ANP]
    lost = picked(*old, rule="own")
    assert lost["status"] == "unusable" and np.isnan([lost["acc"], lost["asr"], lost["der"]]).all()
    assert "ANP against BadNets" in lost["note"] and "own_acc_before" in lost["note"]
    assert picked(*old, rule="fixed:0.4")["value"] == 0.4


@pytest.mark.parametrize(("victim", "status"), [("collapsed", "ok"), ("diverged", "diverged")])
def test_the_unchanged_model_has_no_status_of_the_last_candidate(victim, status):
    useless = candidates((0.4, 0.1, 1.0, 0.1), status="not applicable")
    selected = select(DataFrame([VICTIM | {"status": victim}, *useless]), {"ANP": "own"})
    assert selected.loc[1, "status"] == status


@pytest.mark.parametrize("rule", ["own", "oracle"])
def test_the_unchanged_model_has_all_scores_of_the_victim(rule):
    parts = {"asr_1": 0.9, "asr_2": 0.8, "racc_1": 0.1, "racc_2": 0.2}
    useless = candidates((0.4, 0.1, 1.0, 0.1), asr_1=1.0, asr_2=1.0, racc_1=0.0, racc_2=0.0)
    selected = select(DataFrame([VICTIM | parts, *useless]), {"ANP": rule})
    assert selected.loc[1, list(parts)].to_dict() == parts


def test_oracle_falls_back_on_the_victim():
    worse = candidates((0.0, 0.89, 1.0, 1), (0.1, 0.81, 0.1, 1))  # 0.81 is a loss of exactly 10 %
    chosen = picked(*worse, rule="oracle")
    assert (chosen["acc"], chosen["asr"], chosen["der"]) == (0.9, 1.0, 0.5)
    assert np.isnan(chosen["value"])


def test_select_column_is_the_default_rule():
    assert select(DataFrame([VICTIM, *ANP]), {})["rule"].tolist() == ["", "own"]


@pytest.mark.parametrize("rule", ["best", "fixed", "fixed:x", "fixed:1.2.3", "Last", ""])
def test_unknown_rule_names_given_and_accepted(rule):
    with pytest.raises(ValueError, match="last, fixed:V, own, oracle") as caught:
        picked(*ANP, rule=rule)
    assert repr(rule) in str(caught.value) and "ANP" in str(caught.value)
    of_a_plugin = select(DataFrame([VICTIM, *(run | {"select": rule} for run in ANP)]), {})
    assert of_a_plugin["status"].tolist() == ["ok", "unusable"]
    assert f"ANP against BadNets: selection rule {rule!r}" in of_a_plugin.at[1, "note"]
    with pytest.raises(ValueError, match="not run yet"):
        select(DataFrame([VICTIM]), {"not run yet": rule})


def test_fixed_lists_the_values_there_are():
    lost = picked(*ANP, rule="fixed:0.5")
    assert re.fullmatch(r"ANP against BadNets.*fixed:0.5.*0, 0.2, 0.4, 0.6", lost["note"])


@pytest.mark.parametrize("rule", ["own", "oracle", "fixed:1"])
def test_rounds_are_not_candidates(rule):
    rows = [VICTIM, row("BadNets", "FT", 0.9, 0.1), row("BadNets", "SAU", 0.8, 0.0)]
    selected = select(DataFrame(rows), {"FT": rule})
    assert selected["status"].tolist() == ["ok", "unusable", "ok"]
    assert re.search("candidates.*rounds", selected.at[1, "note"])
    assert cells(selected, "acc").loc["BadNets"].tolist() == ["90.00", "unusable", "80.00"]


def test_own_needs_settings():
    lost = picked(*(run | {"value": np.nan} for run in ANP), rule="own")
    assert lost["status"] == "unusable" and "a setting of every candidate" in lost["note"]


@pytest.mark.parametrize("rule", ["own", "oracle"])
def test_without_the_victims_scores_nothing_stays_as_it_was(rule):
    useless = candidates((0.4, 0.1, 1.0, 0.1))
    gone = VICTIM | {"acc": np.nan, "asr": np.nan, "status": "failed"}
    selected = select(DataFrame([gone, *useless]), {"ANP": rule})
    assert selected["status"].tolist() == ["failed", "unusable"]


def test_a_run_without_scores_stands_whatever_the_rule():
    run = candidates((np.nan, np.nan, np.nan, np.nan), status="not applicable")
    assert picked(*run, rule="fixed:0.4")["status"] == "not applicable"


def test_rows_that_a_table_would_mix_are_refused():
    ft = row("BadNets", "FT", 0.9, 0.1)
    with pytest.raises(ValueError, match=r"BadNets.*BadNetsFT0, other"):
        select(DataFrame([VICTIM, ft, ft | {"key": "other"}]), {})
    with pytest.raises(ValueError, match="gone"):
        select(DataFrame([VICTIM, ft | {"victim": "gone"}]), {})
    with pytest.raises(ValueError, match=r"BadNets.*FT"):
        select(DataFrame([VICTIM, ft, ft]), {})


def test_choose_is_independent_of_row_order():
    shuffled = DataFrame(ANP).sample(frac=1, random_state=1)
    assert choose(shuffled, "last", pd.Series(VICTIM))["step"] == 4


def test_der_uses_the_victim_of_the_same_seed():
    rows = [
        row("LF", d, *pair, seed=seed)
        for seed, none, ft in [(0, (0.9, 1.0), (0.9, 0.0)), (1, (0.8, 0.6), (0.8, 0.0))]
        for d, pair in {"No Defense": none, "FT": ft}.items()
    ]
    selected = select(DataFrame(rows), {})
    assert selected["der"].tolist() == pytest.approx([np.nan, 1.0, np.nan, 0.8], nan_ok=True)


# --- pivot -------------------------------------------------------------------------------------


def test_pivot_orders_and_averages():
    table = pivot(grid(SCORES), "acc")
    assert list(table.columns) == ["No Defense", "SAU", "FT"]
    assert list(table.index) == ["BadNets", "WaNet", "Average"]
    assert table.loc["Average"].tolist() == pytest.approx([0.9, 0.8, 0.925])


def test_average_der_is_the_mean_of_ders():
    table = pivot(grid(SCORES), "der")
    assert list(table.columns) == ["SAU", "FT"]
    assert table["SAU"].tolist() == pytest.approx([1.0, 0.4, 0.7])  # of the averages: 0.625
    assert table["FT"].tolist() == pytest.approx([0.9, 0.7, 0.8])


def test_seeds_are_averaged_with_their_spread():
    parts = [
        row(a, d, acc + 0.02 * seed, 0.5, seed=seed)
        for seed in (0, 1)
        for a, acc in (("BadNets", 0.9), ("LF", 0.7))
        for d in ("No Defense", "FT")
    ]
    selected = select(DataFrame(parts), {})
    assert pivot(selected, "acc").loc["Average", "FT"] == pytest.approx(0.81)
    assert pivot(selected, "acc", "std")["FT"].tolist() == pytest.approx([0.02 / 2**0.5] * 3)
    assert cells(selected, "acc").at["BadNets", "FT"] == "91.00 ± 1.41"
    assert "mean ± standard deviation over n = 2 seeds, 0, 1;" in caption(selected, "ACC")


def test_two_pairs_do_not_share_a_table():
    other = grid(SCORES, model="VGG19")
    with pytest.raises(ValueError, match="VGG19"):
        pivot(pd.concat([grid(SCORES), other]), "acc")


def test_a_method_missing_for_an_attack_has_no_average():
    selected = grid({"BadNets": SCORES["BadNets"], "WaNet": {"No Defense": (0.9, 0.8)}})
    text = cells(selected, "acc")
    assert text["FT"].tolist() == ["95.00", "-", "-"]
    assert text.at["Average", "No Defense"] == "90.00"
    assert "- missing: SAU (WaNet); FT (WaNet)." in footnotes(selected)


def test_a_collapsed_victim_is_left_out_and_said_so():
    selected = grid(SCORES | {"LF": {"No Defense": (0.1, 1.0), "FT": (0.1, 0.0)}})
    bad = (selected["attack"] == "LF") & (selected["defense"] == "No Defense")
    selected.loc[bad, "status"] = "collapsed"
    selected.loc[selected["attack"] == "LF", "victim_status"] = "collapsed"
    assert averaged_attacks(selected) == ["BadNets", "WaNet"]
    assert pivot(selected, "acc").loc["Average", "FT"] == pytest.approx(0.925)
    table = metric_table(selected, "acc")
    assert table.text.iloc[2].tolist() == ["LF¶", "10.00‡", "-", "10.00"]
    assert table.ranks.iloc[2].isna().all()
    assert any("left out of the Average" in note and "LF" in note for note in table.notes)
    assert table.numbers.at["LF", "status"] == "No Defense collapsed; SAU missing"


@pytest.mark.parametrize(
    ("status", "printed"),
    [("diverged", "90.00†"), ("collapsed", "90.00‡"), ("not applicable", "n/a")],
)
def test_a_defense_that_went_wrong_is_marked_and_neither_averaged_nor_ranked(status, printed):
    selected = grid(SCORES)
    bad = (selected["attack"] == "WaNet") & (selected["defense"] == "FT")
    selected.loc[bad, "status"] = status
    table = metric_table(selected, "acc")
    assert table.text["FT"].tolist() == ["95.00", printed, "-"]
    assert np.isnan(table.ranks["FT"].iloc[1])
    assert any(status in note and "FT (WaNet)" in note for note in table.notes)


def test_an_unsound_seed_is_not_averaged_in():
    rows = [
        row("LF", d, acc, 0.5, seed=s)
        for s in (0, 1)
        for d, acc in (("No Defense", 0.9), ("FT", 0.8))
    ]
    rows[-1] |= {"acc": 0.1, "status": "diverged"}
    selected = select(DataFrame(rows), {})
    assert cells(selected, "acc")["FT"].tolist() == ["80.00 (1 of 2)†", "-"]


@pytest.mark.parametrize("status", ["failed", "blocked", "missing", "unusable", None])
def test_a_cell_that_lacks_seeds_says_how_many_it_has(status):
    """So does its Average, by the mark; a seed of a collapsed victim is lacking, too."""
    rows = [
        row("LF", d, acc, 0.5, seed=s, status="ok", note="")
        for s in (0, 1, 2)
        for d, acc in (("No Defense", 0.9), ("FT", 0.8 + s / 100), ("SAU", 0.8))
    ]
    lost = {"acc": np.nan, "asr": np.nan, "status": status, "step": 0, "note": "boom"}
    rows[-2] |= lost if status else {}
    if status is None:
        del rows[-2]
    selected = select(DataFrame(rows), {})
    assert cell_states(selected).at["LF", "FT"] == "fewer seeds"
    assert cells(selected, "acc")["FT"].tolist() == ["80.50 ± 0.71 (2 of 3)§", "80.50 ± 0.71§"]
    assert cells(selected, "acc")["SAU"].tolist() == ["80.00 ± 0.00"] * 2
    notes = mark_notes(selected)
    assert "§ fewer seeds than the caption names (k of n): FT (LF)." in notes
    if status:
        assert f"{'- ' * (status == 'missing')}{status}: FT (LF seed 2): boom" in notes


def test_defenses_of_a_collapsed_seed_say_that_it_is_not_in_their_mean():
    rows = [
        row("LF", d, acc, 0.5, seed=s)
        for s in (0, 1)
        for d, acc in (("No Defense", 0.9), ("FT", 0.8))
    ]
    rows[2] |= {"status": "collapsed", "acc": 0.1}
    rows[3] |= {"acc": 0.1}
    selected = select(DataFrame(rows), {})
    assert cells(selected, "acc").iloc[0].tolist() == ["90.00 (1 of 2)‡", "80.00 (1 of 2)§"]


def test_collapsed_victims_are_averaged_where_the_config_says_so():
    rows = [row(a, d, *pair) for a, line in SCORES.items() for d, pair in line.items()]
    weak = [d for d in rows if d["attack"] == "WaNet" and d["kind"] == "victim"]
    weak[0] |= {"asr": 0.126, "status": "collapsed"}
    rows = DataFrame(rows)
    alone, together = select(rows, {}), select(keep_collapsed(rows), {})
    assert averaged_attacks(alone) == ["BadNets"]
    assert averaged_attacks(together) == ["BadNets", "WaNet"]
    table = metric_table(together, "asr")
    assert table.text["No Defense"].tolist() == ["100.00", "12.60‡", "56.30"]
    assert table.text["FT"].tolist() == ["20.00", "40.00", "30.00"]
    assert table.ranks["FT"].tolist() == [2, 1, 1]
    assert "averages include collapsed victims" in table.caption
    assert "averages include" not in metric_table(alone, "asr").caption
    rule = "(ACC below 2 / number of classes or ASR below 50 %): No Defense (WaNet)."
    assert table.notes == (f"‡ collapsed, averaged {rule}",)
    assert f"‡ collapsed {rule}" in metric_table(alone, "asr").notes


def test_a_diverged_seed_outweighs_a_collapsed_one_that_is_averaged():
    rows = [row("LF", "No Defense", 0.9, 0.9, seed=s) for s in (0, 1)]
    rows[0]["status"], rows[1]["status"] = "collapsed", "diverged"
    selected = select(keep_collapsed(DataFrame(rows)), {})
    assert cell_states(selected).at["LF", "No Defense"] == "diverged"
    assert averaged_attacks(selected) == []


def test_ranks_by_printed_value_with_ties():
    line = {"No Defense": 99.0, "A": 90.001, "B": 90.0, "C": 80.0, "D": 70.0}
    values = DataFrame([line, dict.fromkeys(line, np.nan) | {"A": 1.0}])
    assert rank(values, "acc").iloc[0].tolist()[1:] == [1, 1, 2, 3]
    assert rank(values, "asr").iloc[0].tolist()[1:] == [3, 3, 2, 1]
    assert np.isnan(rank(values, "acc")["No Defense"]).all()
    assert rank(values, "acc").iloc[1].isna().all()  # nothing to compare with
