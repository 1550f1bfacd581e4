"""The paper's own layout: lines, columns, marks, LaTeX."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from pandas import DataFrame
from papers import LR, cell, layout, published, value
from table_rows import grid, row

from sau_bench.benchmark.report.layout import comparison_table, published_tables
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.report.write import report

SCORED = {
    "BadNets": {"No Defense": (0.9, 0.95), "FT": (0.9, 0.4), "SAU": (0.88, 0.01)},
    "LF": {"No Defense": (0.92, 0.97), "FT": (0.91, 0.5), "SAU": (0.9, 0.02)},
}
VALUES = {
    ("BadNets", "FT"): [value(91.0, 45.0)],
    ("BadNets", "SAU"): [value(89.5, 1.5)],
    ("LF", "SAU"): [value(95.5, 14.0)],
}


def test_three_lines_for_each_attack_and_an_average():
    table = comparison_table(published(VALUES), layout(), grid(SCORED))
    labels = [tuple(line) for line in table.text.iloc[:, :2].to_numpy()]
    assert labels[:4] == [
        ("BadNets", "ours"),
        ("", "published"),
        ("", "difference"),
        ("LF", "ours"),
    ]
    assert labels[6] == ("Average", "ours")
    sau = table.text[("SAU", "ASR")].tolist()
    assert sau[:6] == ["1.00", "1.50", "-0.50", "2.00", "14.00", "-12.00*"]
    assert sau[6:] == ["1.50", "7.75", "-6.25"]
    assert ("No Defense", "DER") not in table.text and ("FT", "DER") in table.text
    assert table.notes[0] == "Within noise: 2 of 3 ACC, 2 of 3 ASR."
    assert "section 9" in table.caption and "tolerance of single runs (ACC 1" in table.caption


def test_the_best_is_marked_among_complete_lines_alone():
    text = comparison_table(published(VALUES), layout(), grid(SCORED)).markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    ours, theirs = lines[2:4]
    assert "| **90.00** |" in ours and "| **1.00** |" in ours
    assert "| **91.00** |" in theirs and "| **1.50** |" in theirs
    assert "**" not in lines[6]  # FT has no published score for LF


def test_the_header_names_defense_and_metric():
    table = comparison_table(published(VALUES), layout(metrics=("acc", "asr")), grid(SCORED))
    header = table.markdown().split("\n\n")[1].splitlines()[0]
    assert header == (
        "| Attack |  | No Defense ACC | No Defense ASR | FT ACC | FT ASR | SAU ACC | SAU ASR |"
    )


def test_latex_has_spans_rules_and_a_block_for_each_four_defenses():
    names = ("A", "B", "C_1", "D", "E")
    line = {"No Defense": (0.9, 0.9)} | dict.fromkeys(names, (0.8, 0.1))
    side = published({}, [layout(defenses=names)])
    text = comparison_table(side, layout(defenses=names), grid({"BadNets": line})).latex()
    assert text.count(r"\begin{tabular}") == 2 and text.count(r"\begin{table}") == 1
    assert r"\multicolumn{3}{c}{No Defense} & \multicolumn{4}{c}{A}" in text
    assert r"\multicolumn{4}{c}{C\_1}" in text and r"\cmidrule(lr){3-5}" in text
    for tabular in re.findall(r"\\begin\{tabular\}\{(l+r+)\}\n(.*?)\\end", text, re.S):
        columns, body = tabular
        for cells in body.splitlines():
            if "&" in cells:
                spans = [int(n) for n in re.findall(r"multicolumn\{(\d+)\}", cells)]
                width = cells.count("&") + 1 + sum(spans) - len(spans)
                assert width == len(columns), cells
        assert body.startswith("\\toprule") and body.endswith("\\bottomrule\n")
    assert text.count("{") == text.count("}")


def test_a_negative_difference_has_a_minus_sign_in_latex():
    text = comparison_table(published(VALUES), layout(), grid(SCORED)).latex()
    assert "$-$12.00*" in text and "& -12" not in text


def test_several_seeds_have_mean_deviation_and_count_everywhere():
    rows = [
        row(attack, d, acc + seed / 100, asr, seed=seed)
        for seed in (0, 1, 2)
        for attack, line in SCORED.items()
        for d, (acc, asr) in line.items()
    ]
    table = comparison_table(published(VALUES), layout(), select(DataFrame(rows), {}))
    assert table.text[("SAU", "ACC")].tolist()[:3] == ["89.00 ± 1.00", "89.50", "-0.50"]
    assert table.text[("SAU", "ACC")].tolist()[6] == "90.00 ± 1.00"
    assert "n = 3 seeds, 0, 1, 2" in table.caption
    assert "outside the interval that holds one more run in 95 % of cases" in table.caption
    line = table.numbers.query("attack == 'BadNets' and defense == 'SAU'").iloc[0]
    assert (round(line["acc"], 6), round(line["acc std"], 6), line["acc n"]) == (89, 1, 3)
    assert (line["acc published"], line["acc verdict"]) == (89.5, "within")
    average = table.numbers.query("attack == 'Average' and defense == 'SAU'").iloc[0]
    assert (round(average["acc std"], 6), average["acc n"]) == (1, 3)


def test_an_average_needs_every_attack_of_it():
    rows = [row(a, d, *pair) for a, line in SCORED.items() for d, pair in line.items()]
    rows[1] |= {"acc": np.nan, "asr": np.nan, "status": "failed", "note": "boom"}
    table = comparison_table(published(VALUES), layout(), select(DataFrame(rows), {}))
    assert table.text[("FT", "ACC")].tolist()[0] == "failed"
    assert table.text[("FT", "ACC")].tolist()[6] == "-"
    assert table.text[("SAU", "ACC")].tolist()[6] == "89.00"
    assert "failed: FT (BadNets)." in table.notes


def test_what_departs_and_what_was_not_run_is_said():
    runs = {
        f"{a}{d}0": [(cell(a, d), (LR,) if d == "SAU" else ())]
        for a in ("BadNets", "LF")
        for d in ("No Defense", "SAU")
    }
    scored = {a: {d: line[d] for d in ("No Defense", "SAU")} for a, line in SCORED.items()}
    wide = layout(attacks=("BadNets", "LF", "SIG"))
    table = comparison_table(published(VALUES, [wide], runs), wide, grid(scored))
    assert "- defenses: lr 0.5 (0.25)" in table.notes
    assert table.notes[-1] == "Of the table not run: SIG, FT."
    same = comparison_table(published(VALUES), layout(), grid(scored))
    assert "Every setting is the published one." in same.notes


def test_two_triggers_have_columns_of_their_own():
    pair = {"asr_1": 0.3, "asr_2": 0.1, "racc_1": 0.5, "racc_2": 0.5}
    rows = [row("LF", d, 0.9, 0.2, **pair) for d in ("No Defense", "SAU")]
    side = published({("LF", "SAU"): [value(90, 20, asr_1=31.0, asr_2=50.0)]})
    twice = layout("T24", metrics=("acc", "asr_1", "asr_2"))
    table = comparison_table(side, twice, select(DataFrame(rows), {}))
    assert list(table.text)[-2:] == [("SAU", "ASR-1"), ("SAU", "ASR-2")]
    assert table.text[("SAU", "ASR-1")].tolist() == ["30.00", "31.00", "-1.00"]
    assert table.text[("SAU", "ASR-2")].tolist()[2] == "-40.00*"


def test_a_table_that_shares_no_more_than_a_victim_with_the_runs_is_left_out():
    lines = [("BadNets", "No Defense", (0.9, 0.95)), ("BadNets", "Mine", (0.9, 0.1))]
    rows = [row(attack, defense, *scores) for attack, defense, scores in lines]
    side = published({("BadNets", "No Defense"): [value(91, 96)], **VALUES})
    for runs, expected in ((rows, set()), (rows[:1], {"table3"})):
        assert set(published_tables(side, DataFrame(runs), select(DataFrame(runs), {}))) == expected


def test_tables_that_are_no_longer_there_are_removed(tmp_path):
    rows = [row(a, d, *pair) for a, line in SCORED.items() for d, pair in line.items()]
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    side = published(VALUES)
    assert set(published_tables(side, DataFrame(rows), select(DataFrame(rows), {}))) == {"table3"}
    report(tmp_path, {}, published=side)
    assert "### Table 3\n" in (tmp_path / "report.md").read_text()
    numbers = pd.read_csv(tmp_path / "tables" / "table3.csv")
    assert {"acc", "acc std", "acc n", "acc published", "acc verdict", "departures"} <= {*numbers}
    report(tmp_path, {})
    assert not (tmp_path / "tables" / "table3.csv").exists()
