"""Measured scores beside published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from table_rows import SCORES, grid, row

from benchmark.report.published import PUBLISHED, published_table
from benchmark.report.tables import select


def test_it_takes_the_first_source_and_names_another_network():
    scores = {"BadNets": {"No Defense": (0.9, 0.95), "SAU": (0.88, 0.01), "new idea": (0.9, 0)}}
    table = published_table(grid(scores, model="PreAct-ResNet18 (width 16)"), PUBLISHED)
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
    same = published_table(grid(scores), PUBLISHED)
    assert same is not None and "the measured network" not in same.caption


@pytest.mark.parametrize("changes", [{"poison_ratio": 0.2}, {"dataset": "MNIST"}, {"model": "ViT"}])
def test_nothing_published_no_table(changes):
    assert published_table(grid(SCORES, **changes), PUBLISHED) is None
    assert published_table(grid(SCORES), Path("nowhere.csv")) is None


def test_a_method_that_is_not_applicable_stays_beside_its_published_scores():
    missing = row("BadNets", "ANP", np.nan, np.nan, poison_ratio=np.nan, status="not applicable")
    rows = [row("BadNets", "No Defense", 0.9, 1.0), missing]
    table = published_table(select(DataFrame(rows), {}), PUBLISHED)
    assert table is not None
    assert "| BadNets | ANP | n/a | 90.88 | n/a | 4.88 | n/a | 94.86 | SAU23-ok T3 |" in (
        table.markdown()
    )
    assert "BadNets,ANP,,90.88,,4.88,,94.86,SAU23-ok T3" in table.csv()
