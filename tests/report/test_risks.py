"""The figure of adversarial risks: what it shows, and when there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pandas import DataFrame
from table_rows import row

from sau_bench.benchmark.report import figures
from sau_bench.benchmark.report.risks import PANELS, has_risks, risk_curves
from sau_bench.benchmark.report.write import report

RISKS = {"adv_risk": 0.9, "shared_risk": 0.5, "shared_risk_joint": 0.7, "risk_before": 1.0}


def grid(*scores: float, **changes: Any) -> DataFrame:
    """SAU on two attacks, a seed for each score, whose shared risk it is after round 2."""
    rows = []
    for attack in ("BadNets", "WaNet"):
        for seed, score in enumerate(scores):
            rows.append(row(attack, "No Defense", 0.9, 1.0, seed=seed))
            for step, shared in ((1, 0.8), (2, score)):
                risks = RISKS | {"shared_risk": shared} | changes
                rows.append(row(attack, "SAU", 0.85, 0.1, seed=seed, step=step, **risks))
    return DataFrame(rows)


def test_lines_are_means_over_seeds_and_bands_a_standard_deviation():
    rows = grid(0.2, 0.4, 0.9)
    figure = risk_curves(rows, figures.looks(rows))
    panels = np.array(figure.axes).reshape(len(PANELS), 2)
    titles = [axis.get_title() for axis in panels[0]]
    assert titles == ["BadNets", "WaNet"]
    shared = panels[list(PANELS).index("shared_risk"), 0]
    level, line = shared.get_lines()
    assert set(level.get_ydata()) == {100.0}
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == pytest.approx([100, 80, 50])
    (band,) = shared.collections
    heights = band.get_paths()[0].vertices
    at_two = heights[heights[:, 0] == 2][:, 1]
    spread = 100 * np.std([0.2, 0.4, 0.9], ddof=1)
    assert (at_two.min(), at_two.max()) == pytest.approx((50 - spread, 50 + spread))
    acc = panels[0, 0].get_lines()[1]
    assert acc.get_ydata().tolist() == pytest.approx([90, 85, 85])


def test_one_seed_has_no_band():
    rows = grid(0.2)
    (band,) = risk_curves(rows, figures.looks(rows)).axes[0].collections
    heights = band.get_paths()[0].vertices
    assert len({(round(x), round(y, 6)) for x, y in heights}) == 3


def test_there_is_a_figure_where_risks_were_measured(tmp_path):
    plain = grid(0.2).drop(columns=list(RISKS))
    assert not has_risks(plain)
    assert not has_risks(grid(0.2, **dict.fromkeys(RISKS, np.nan)))
    for rows, there in ((plain, False), (grid(0.2), True)):
        rows.to_csv(tmp_path / "rows.csv", index=False)
        files = {file.name for file in report(tmp_path, {})}
        assert ("risks.png" in files) is there
    assert "![Risks](figures/risks.png)" in (tmp_path / "report.md").read_text()
