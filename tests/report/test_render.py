"""Printed tables: marks, captions, costs, times to effect and published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pandas import DataFrame
from table_rows import ANP, SCORES, VICTIM, grid, row

from benchmark.report.render import caption, cost_table, effect_table, metric_table, reported_table
from benchmark.report.tables import select
from benchmark.report.write import PUBLISHED


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
