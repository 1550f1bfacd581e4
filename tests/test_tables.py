"""Selection, DER, averages, ranks, marks and the written tables, on rows small enough to check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from benchmark.errors import InputError
from benchmark.layout import (
    caption,
    cells,
    cost_table,
    effect_table,
    footnotes,
    metric_table,
    reported_table,
)
from benchmark.report import COLUMNS, PUBLISHED, read_rows, report
from benchmark.tables import choose, counted, der, pivot, rank, select, statuses

GOLDEN = Path(__file__).parent / "golden"
share = st.floats(0, 1)


def row(attack: str, defense: str, acc: Any, asr: Any, **changes: Any) -> dict[str, Any]:
    """One row with sensible constants; the keys follow from attack, defense and seed."""
    seed = changes.get("seed", 0)
    victim = defense == "No Defense"
    constants = dict.fromkeys(COLUMNS, "") | {
        "dataset": "CIFAR-10", "model": "PreAct-ResNet18", "attack": attack, "defense": defense,
        "seed": seed, "key": f"{attack}{defense}{seed}", "victim": f"{attack}No Defense{seed}",
        "kind": "victim" if victim else "rounds", "step": 0 if victim else 1,
        "select": "" if victim else "last", "uses": "" if victim else "clean",
        "acc": acc, "asr": asr, "racc": 0.5, "n_clean": 10000, "n_poisoned": 9000,
        "value": np.nan, "own_acc": np.nan, "poison_ratio": 0.1, "status": "ok",
        "seconds": 10.0, "peak_mib": 100.0, "device": "test device", "versions": "test 1.0",
    }  # fmt: skip
    return constants | changes


def candidates(*scores: tuple[float, float, float, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of ANP against BadNets from (value, acc, asr, own_acc)."""
    return [
        row("BadNets", "ANP", acc, asr, kind="candidates", select="own", step=step,
            value=value, own_acc=own, **changes)
        for step, (value, acc, asr, own) in enumerate(scores)
    ]  # fmt: skip


VICTIM = row("BadNets", "No Defense", 0.9, 1.0)
ANP = candidates(
    (0.0, 0.9, 1.0, 1.0), (0.2, 0.88, 0.6, 0.95), (0.4, 0.82, 0.3, 0.9), (0.6, 0.5, 0, 0.6)
)


def picked(*rows: dict[str, Any], rule: str) -> Any:
    """The row that `rule` picks for ANP."""
    selected = select(DataFrame([VICTIM, *rows]), {"ANP": rule})
    return selected[selected["defense"] == "ANP"].iloc[0]


def grid(scores: dict[str, dict[str, tuple[float, float]]], **changes: Any) -> DataFrame:
    """Selected rows from {attack: {defense: (acc, asr)}}."""
    rows = [row(a, d, *pair, **changes) for a, line in scores.items() for d, pair in line.items()]
    return select(DataFrame(rows), {})


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


def test_own_keeps_a_loss_of_exactly_a_tenth_and_nothing_beyond():
    assert picked(*candidates((0, 0.9, 1, 0.9), (0.1, 0.9, 1, 0.81)), rule="own")["value"] == 0.1
    assert picked(*candidates((0, 0.9, 1, 0.9), (0.1, 0.9, 1, 0.80)), rule="own")["value"] == 0


def test_oracle_falls_back_on_the_victim():
    worse = candidates((0.0, 0.89, 1.0, 1), (0.1, 0.81, 0.1, 1))  # 0.81 is a loss of exactly 10 %
    chosen = picked(*worse, rule="oracle")
    assert (chosen["acc"], chosen["asr"], chosen["der"]) == (0.9, 1.0, 0.5)
    assert np.isnan(chosen["value"])


def test_select_column_is_the_default_rule():
    assert select(DataFrame([VICTIM, *ANP]), {})["rule"].tolist() == ["", "own"]


@pytest.mark.parametrize("rule", ["best", "fixed", "fixed:x", "fixed:1.2.3", "Last", ""])
def test_unknown_rule_names_given_and_accepted(rule):
    with pytest.raises(ValueError, match=r"selection rule .* is unknown; accepted: last, fixed:V"):
        picked(*ANP, rule=rule)
    with pytest.raises(ValueError, match="unknown"):
        select(DataFrame([VICTIM]), {"not run yet": rule})


def test_fixed_lists_the_values_there_are():
    with pytest.raises(ValueError, match=r"ANP against BadNets.*fixed:0.5.*0, 0.2, 0.4, 0.6"):
        picked(*ANP, rule="fixed:0.5")


@pytest.mark.parametrize("rule", ["own", "oracle", "fixed:1"])
def test_rounds_are_not_candidates(rule):
    with pytest.raises(ValueError, match="needs candidates, the run has rounds"):
        select(DataFrame([VICTIM, row("BadNets", "FT", 0.9, 0.1)]), {"FT": rule})


def test_a_run_without_scores_stands_whatever_the_rule():
    run = candidates((np.nan, np.nan, np.nan, np.nan), status="not applicable")
    assert picked(*run, rule="fixed:0.4")["status"] == "not applicable"


def test_rows_that_a_table_would_mix_are_refused():
    ft = row("BadNets", "FT", 0.9, 0.1)
    with pytest.raises(ValueError, match="several jobs share the labels"):
        select(DataFrame([VICTIM, ft, ft | {"key": "other"}]), {})
    with pytest.raises(ValueError, match="no row for the victims gone"):
        select(DataFrame([VICTIM, ft | {"victim": "gone"}]), {})
    with pytest.raises(ValueError, match="given twice"):
        select(DataFrame([VICTIM, ft, ft]), {})


def test_choose_is_independent_of_row_order():
    shuffled = DataFrame(ANP).sample(frac=1, random_state=1)
    assert choose(shuffled, "last", pd.Series(VICTIM))["step"] == 3


def test_der_uses_the_victim_of_the_same_seed():
    rows = [
        row("LF", d, *pair, seed=seed)
        for seed, none, ft in [(0, (0.9, 1.0), (0.9, 0.0)), (1, (0.8, 0.6), (0.8, 0.0))]
        for d, pair in {"No Defense": none, "FT": ft}.items()
    ]
    selected = select(DataFrame(rows), {})
    assert selected["der"].tolist() == pytest.approx([np.nan, 1.0, np.nan, 0.8], nan_ok=True)


# --- pivot -------------------------------------------------------------------------------------

SCORES = {
    "BadNets": {"SAU": (0.9, 0.0), "No Defense": (0.9, 1.0), "FT": (0.95, 0.2)},
    "WaNet": {"SAU": (0.7, 0.9), "No Defense": (0.9, 0.8), "FT": (0.9, 0.4)},
}


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
    assert "mean ± standard deviation over the seeds 0, 1;" in caption(selected, "ACC")


def test_two_pairs_do_not_share_a_table():
    other = grid(SCORES, model="VGG19")
    with pytest.raises(ValueError, match="several pairs"):
        pivot(pd.concat([grid(SCORES), other]), "acc")


def test_a_method_missing_for_an_attack_has_no_average():
    selected = grid({"BadNets": SCORES["BadNets"], "WaNet": {"No Defense": (0.9, 0.8)}})
    text = cells(selected, "acc")
    assert text["FT"].tolist() == ["95.00", "-", "-"]
    assert text.at["Average", "No Defense"] == "90.00"
    assert "- not run: SAU (WaNet); FT (WaNet)." in footnotes(selected)


def test_a_collapsed_victim_is_left_out_and_said_so():
    selected = grid(SCORES | {"LF": {"No Defense": (0.1, 1.0), "FT": (0.1, 0.0)}})
    bad = (selected["attack"] == "LF") & (selected["defense"] == "No Defense")
    selected.loc[bad, "status"] = "collapsed"
    selected.loc[selected["attack"] == "LF", "victim_status"] = "collapsed"
    assert counted(selected) == ["BadNets", "WaNet"]
    assert pivot(selected, "acc").loc["Average", "FT"] == pytest.approx(0.925)
    table = metric_table(selected, "acc")
    assert table.text.iloc[2].tolist() == ["LF¶", "10.00‡", "-", "10.00"]
    assert table.ranks.iloc[2].isna().all()
    assert any("left out of the Average" in note and "LF" in note for note in table.notes)
    assert table.numbers.at["LF", "status"] == "No Defense collapsed; SAU not run"


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
    assert cells(selected, "acc")["FT"].tolist() == ["80.00†", "-"]
    assert cells(select(DataFrame(rows[:-1]), {}), "acc").at["LF", "FT"] == "80.00§"
    assert statuses(select(DataFrame(rows[:-1]), {})).at["LF", "FT"] == "fewer seeds"


def test_ranks_by_printed_value_with_ties():
    line = {"No Defense": 99.0, "A": 90.001, "B": 90.0, "C": 80.0, "D": 70.0}
    values = DataFrame([line, dict.fromkeys(line, np.nan) | {"A": 1.0}])
    assert rank(values, "acc").iloc[0].tolist()[1:] == [1, 1, 2, 3]
    assert rank(values, "asr").iloc[0].tolist()[1:] == [3, 3, 2, 1]
    assert np.isnan(rank(values, "acc")["No Defense"]).all()
    assert rank(values, "acc").iloc[1].isna().all()  # nothing to compare with


def test_best_is_bold_and_second_underlined():
    scores = {
        "BadNets": {"No Defense": (0.99, 1.0), "A": (0.9, 0.1), "B": (0.9, 0.2), "C": (0.8, 0.3)}
    }
    acc, asr = (metric_table(grid(scores), metric) for metric in ("acc", "asr"))
    assert "| BadNets | 99.00 | **90.00** | **90.00** | <u>80.00</u> |" in acc.markdown()
    assert "| BadNets | 100.00 | **10.00** | <u>20.00</u> | 30.00 |" in asr.markdown()
    assert (
        r"BadNets & 99.00 & \textbf{90.00} & \textbf{90.00} & \underline{80.00} \\" in acc.latex()
    )


def test_latex_escapes_labels():
    text = metric_table(grid({"A_1 & 50 %": {"No Defense": (0.9, 1.0)}}), "acc").latex()
    assert r"A\_1 \& 50 \% & 90.00 \\" in text
    assert r"\toprule" in text and r"\caption{ACC in percent" in text


def test_caption_tells_ratios_and_warns_of_the_oracle():
    rows = [VICTIM, *ANP, row("SIG", "No Defense", 0.9, 1.0, poison_ratio=0.005)]
    text = caption(select(DataFrame(rows), {"ANP": "oracle"}), "ACC")
    assert "poisoning ratio 10 % (BadNets); 0.5 % (SIG)" in text
    assert "oracle, which looks at test data, (ANP)" in text


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
    assert table.text.loc[1].tolist() == ["Average", "30.0", "20.0", "30.0"]
    given = effect_table(DataFrame(rows), selected, 0.7)
    assert given is not None and given.text.loc[0].tolist() == ["BadNets", "30.0", "10.0", "30.0"]
    assert "above 70 %" in given.caption and "nine tenths" in table.caption


def test_effect_counts_whole_runs_where_it_never_comes():
    rows = [VICTIM | {"acc": 0.9, "asr": 1.0}, *timed("FT", (0.9, 0.9), (0.9, 0.8))]
    rows += [row("LF", "No Defense", 0.9, 1.0, key="LFN", victim="LFN")]
    rows += [step | {"victim": "LFN"} for step in timed("FT", (0.9, 0.0), (0.9, 0.0), attack="LF")]
    table = effect_table(DataFrame(rows), select(DataFrame(rows), {}), None)
    assert table is not None
    assert table.numbers["FT"].tolist() == [20.0, 10.0, 15.0]
    assert effect_table(DataFrame([VICTIM]), select(DataFrame([VICTIM]), {}), None) is None


# --- published numbers -------------------------------------------------------------------------


def test_reported_takes_the_first_source_and_names_another_network():
    scores = {"BadNets": {"No Defense": (0.9, 0.95), "SAU": (0.88, 0.01), "own idea": (0.9, 0)}}
    table = reported_table(grid(scores, model="PreAct-ResNet18 (width 16)"), PUBLISHED)
    assert table is not None
    assert table.text["Defense"].tolist() == ["No Defense", "SAU"]
    sau = table.numbers.iloc[1]
    assert (sau["ACC published"], sau["ASR published"], sau["DER published"]) == (
        89.31,
        1.53,
        95.74,
    )
    assert sau["ACC"] == pytest.approx(88.0) and sau["Source"].startswith("SAU23-ok")
    assert "the measured network is not the paper's PreAct-ResNet18" in table.caption
    same = reported_table(grid(scores), PUBLISHED)
    assert same is not None and "the measured network" not in same.caption


@pytest.mark.parametrize("changes", [{"poison_ratio": 0.2}, {"dataset": "MNIST"}, {"model": "ViT"}])
def test_nothing_reported_no_table(changes):
    assert reported_table(grid(SCORES, **changes), PUBLISHED) is None
    assert reported_table(grid(SCORES), Path("nowhere.csv")) is None


# --- report ------------------------------------------------------------------------------------


def test_golden(tmp_path):
    (tmp_path / "golden").mkdir()
    folder = tmp_path / "golden"
    (folder / "rows.csv").write_bytes((GOLDEN / "rows.csv").read_bytes())
    written = report(folder, {"ANP": "fixed:0.4"})
    texts = [path.relative_to(folder) for path in written if path.suffix not in (".pdf", ".png")]
    if os.environ.get("WRITE_GOLDEN"):
        for name in texts:
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_bytes((folder / name).read_bytes())
    stored = {p.relative_to(GOLDEN) for p in GOLDEN.rglob("*.*")} - {Path("rows.csv")}
    assert stored == set(texts)
    for name in texts:
        assert (folder / name).read_text("utf-8") == (GOLDEN / name).read_text("utf-8"), name
    before = {path: path.read_bytes() for path in written}
    assert report(folder, {"ANP": "fixed:0.4"}) == written
    assert {path: path.read_bytes() for path in written} == before


def test_several_pairs_get_folders_of_their_own(tmp_path):
    rows = [
        row("LF", d, 0.9, 0.1, model=m, key=m + d, victim=f"{m}No Defense")
        for m in ("VGG19", "ViT (tiny)")
        for d in ("No Defense", "FT")
    ]
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    names = {path.relative_to(tmp_path).as_posix() for path in report(tmp_path, {})}
    assert {"tables/cifar-10-vgg19/der.tex", "figures/cifar-10-vit-tiny/der.png"} <= names


def test_victims_alone_make_a_report(tmp_path):
    DataFrame([VICTIM]).to_csv(tmp_path / "rows.csv", index=False)
    stale = tmp_path / "tables" / "der.md"
    stale.parent.mkdir()
    stale.write_text("of an earlier run")
    names = {path.name for path in report(tmp_path, {})}
    assert not stale.exists()
    assert {"acc.md", "scatter.pdf"} <= names and not {"der.md", "cost.md", "curves.pdf"} & names


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop(columns=["asr", "note"]), "lacks the columns note, asr"),
        (lambda rows: rows[:0], "has no rows"),
        (lambda rows: rows.assign(status="fine"), "status 'fine'; accepted: ok, diverged"),
        (lambda rows: rows.assign(acc="high"), "column acc: Unable to parse"),
        (lambda rows: rows.assign(victim="gone"), "no row for the victims gone"),
    ],
)
def test_bad_rows_are_told_in_one_line(tmp_path, spoil, message):
    spoil(DataFrame([VICTIM])).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        report(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_missing_rows_are_told(tmp_path):
    with pytest.raises(InputError, match=r"rows.csv does not exist"):
        report(tmp_path, {})


def test_hex_keys_stay_text(tmp_path):
    DataFrame([VICTIM | {"key": "12e4", "victim": "12e4", "note": "NA"}]).to_csv(
        tmp_path / "rows.csv"
    )
    rows = read_rows(tmp_path / "rows.csv")
    assert (rows.at[0, "key"], rows.at[0, "note"]) == ("12e4", "NA")


def test_no_torch():
    code = "import sys, benchmark.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
