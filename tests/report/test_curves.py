"""Learning curves and adversarial risks: what they show, what they say, and when there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pandas import DataFrame
from table_rows import row

from sau_bench.benchmark.report.curves import RISKS, curves, has_risks, risk_curves
from sau_bench.benchmark.report.figures import limits_of
from sau_bench.benchmark.report.style import looks
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.report.write import report

MEASURED = {"adv_risk": 0.9, "shared_risk": 0.5, "shared_risk_joint": 0.7, "risk_before": 0.98}


def grid(*scores: float, **changes: Any) -> DataFrame:
    """SAU on two attacks, a seed for each score, whose shared risk it is after round 2."""
    rows = []
    for attack in ("BadNets", "WaNet"):
        for seed, score in enumerate(scores):
            rows.append(row(attack, "No Defense", 0.9, 1.0, seed=seed))
            for step, shared in ((1, 0.8), (2, score)):
                risks = MEASURED | {"shared_risk": shared} | changes
                rows.append(row(attack, "SAU", 0.85, 0.1, seed=seed, step=step, **risks))
    return DataFrame(rows)


def drawn(draw, rows):
    """The figure, and its panels as an array of metrics x attacks."""
    figure = draw(rows, looks(rows), limits_of(rows, select(rows, {})))
    return figure, np.array(figure.axes).reshape(-1, rows["attack"].nunique())


def note(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_lines_are_means_over_seeds_and_whiskers_a_standard_deviation():
    figure, panels = drawn(risk_curves, grid(0.2, 0.4, 0.9))
    assert [axis.get_title() for axis in panels[0]] == ["BadNets", "WaNet"]
    level, *whiskers, line = panels[list(RISKS).index("shared_risk"), 0].get_lines()
    assert level.get_ydata() == pytest.approx([98, 98]) and level.get_linestyle() == "--"
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == pytest.approx([98, 80, 50])
    spread = 100 * np.std([0.2, 0.4, 0.9], ddof=1)
    (at_two,) = whiskers  # of the first round all seeds are alike
    assert at_two.get_ydata() == pytest.approx([50 - spread, 50 + spread])
    acc = panels[0, 0].get_lines()[-1]
    assert acc.get_ydata().tolist() == pytest.approx([90, 85, 85])
    assert "mean ± standard deviation over n = 3 seeds" in note(figure)


def test_one_seed_has_no_whiskers():
    figure, panels = drawn(risk_curves, grid(0.2))
    assert all(len(axis.get_lines()) == 2 for axis in panels.flat)
    assert "±" not in note(figure) and "seed 0" in note(figure)


def test_every_scored_round_is_marked_unless_there_are_many():
    rows = [row("BadNets", "No Defense", 0.9, 1.0)]
    rows += [row("BadNets", "FT", 0.9, 0.5, step=step) for step in range(1, 101)]
    rows += [row("BadNets", "SAU", 0.9, 0.5, step=step) for step in range(1, 10)]
    _, panels = drawn(curves, DataFrame(rows))
    _, many, few = panels[0, 0].get_lines()
    assert few.get_markevery() == list(range(9, 0, -1))
    marks = many.get_markevery()
    assert marks[0] == 100 and 10 <= len(marks) <= 20  # the last round, and even steps


def test_what_has_no_curve_is_named_with_the_reason():
    rows = [row("BadNets", "No Defense", 0.9, 1.0), row("WaNet", "No Defense", 0.9, 1.0)]
    for attack in ("BadNets", "WaNet"):
        rows += [row(attack, "FT", 0.9, 0.5, step=step) for step in (1, 2)]
        rows.append(row(attack, "EP", 0.9, 0.1))
        rows += [
            row(attack, "NC", 0.9, 0.1, step=s) for s in ((1, 2) if attack == "WaNet" else [1])
        ]
        rows.append(row(attack, "ANP", 0.9, 0.1, kind="candidates", value=0.4))
        gone = {"status": "not applicable", "racc": np.nan, "step": 0}
        rows.append(row(attack, "NAD", np.nan, np.nan, **gone))
    rows.append(row("BadNets", "AT", np.nan, np.nan, status="failed", step=0, racc=np.nan))
    rows += [row("WaNet", "AT", 0.8, 0.1, step=step) for step in (1, 2)]
    figure, panels = drawn(curves, DataFrame(rows))
    said = note(figure)
    assert "A round is one model that a defense yields" in said
    assert "Scored once, a mark without a line: EP, NC (BadNets)." in said
    expected = "No curve: ANP (yields candidates, no rounds), NAD (not applicable), "
    assert expected + "AT (BadNets; failed)." in said
    lines = panels[0, 0].get_lines()[1:]
    alone = [line for line in lines if line.get_linestyle() == "None"]
    assert [line.get_xdata().tolist() for line in alone] == [[1], [1]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["FT", "EP", "NC", "AT", "No Defense"]


def test_a_broken_model_is_drawn_at_the_edge_and_named():
    rows = [row("BadNets", "No Defense", 0.9, 1.0)]
    for defense, acc in (("FT", 0.89), ("SAU", 0.88), ("ANP", 0.1)):
        rows += [row("BadNets", defense, acc, 0.1, step=step) for step in (1, 2)]
    figure, panels = drawn(curves, DataFrame(rows))
    low, high = panels[0, 0].get_ylim()
    assert 50 < low < 70 and 90 < high < 100
    assert panels[0, 0].get_lines()[-1].get_ydata().tolist() == pytest.approx([90, low, low])
    assert "Below the axis, drawn at its edge, lowest ACC: ANP 10.0." in note(figure)


def test_lines_of_a_victim_far_below_the_others_begin_at_the_edge_and_it_is_named():
    rows = grid(0.2)
    broken = (rows["kind"] == "victim") & (rows["attack"] == "WaNet")
    rows.loc[broken, "acc"] = 0.1
    figure, panels = drawn(curves, rows)
    low, _ = panels[0, 1].get_ylim()
    assert panels[0, 1].get_lines()[-1].get_ydata()[0] == low > 10
    assert "Below the axis, drawn at its edge, lowest ACC: No Defense 10.0" in note(figure)


def test_there_is_a_figure_where_risks_were_measured(tmp_path):
    plain = grid(0.2).drop(columns=list(MEASURED))
    assert not has_risks(plain)
    assert not has_risks(grid(0.2, **dict.fromkeys(MEASURED, np.nan)))
    for rows, there in ((plain, False), (grid(0.2), True)):
        rows.to_csv(tmp_path / "rows.csv", index=False)
        files = {file.name for file in report(tmp_path, {})}
        assert ("risks.png" in files) is there
    assert "figures/risks.png" in (tmp_path / "report.md").read_text()
