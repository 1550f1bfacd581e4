"""Paired tests: against scipy and by hand, and when there are too few cells for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame, Series
from scipy.stats import wilcoxon
from table_rows import row

from sau_bench.benchmark.report.critical import critical_difference
from sau_bench.benchmark.report.figures import looks
from sau_bench.benchmark.report.significance import (
    PairedTests,
    holm,
    needed_blocks,
    paired_table,
    paired_tests,
    scored_blocks,
    why_no_test,
)
from sau_bench.benchmark.report.tables import select


def runs(seeds=3, gains=(0.3, 0.0, 0.25), attacks=6):
    """Three defenses against six attacks; each lowers ASR by its gain and a little noise."""
    draw = np.random.default_rng(1)
    rows = []
    for attack in range(attacks):
        for seed in range(seeds):
            ids = {"seed": seed, "attack": f"A{attack}"}
            rows.append(row(f"A{attack}", "No Defense", 0.9, 1.0, seed=seed) | ids)
            for name, gain in zip("XYZ", gains, strict=True):
                asr = 0.6 - gain + draw.uniform(0, 0.05)
                rows.append(row(f"A{attack}", name, 0.9, asr, seed=seed) | ids)
    return DataFrame(rows)


def test_pairs_are_those_of_one_attack_and_seed():
    rows = runs()
    selected = select(rows, {})
    tests = paired_tests(selected)
    assert tests is not None and list(tests.ranks.index) == ["X", "Z", "Y"]
    pairs = tests.pairs.set_index(["better", "worse"])
    by_hand = {
        name: rows.loc[rows["defense"] == name, "asr"].to_numpy(dtype=float) for name in "XYZ"
    }
    change = 50 * (by_hand["Y"] - by_hand["X"])  # DER: half of the drop of ASR
    line = pairs.loc[("X", "Y")]
    assert line["n"] == 18 and line["difference"] == pytest.approx(change.mean())
    assert line["std"] == pytest.approx(change.std(ddof=1), abs=1e-4)
    assert line["p"] == pytest.approx(wilcoxon(change).pvalue)
    assert line["corrected"] < 0.05 and tests.friedman < 0.001
    table = paired_table(selected, tests)
    assert table.text["Differ"].tolist() == ["yes"] * 3
    assert table.notes[0].startswith("Mean ranks, 1 the best: X ")
    assert table.csv().startswith("better,worse,difference,std,n,p,corrected\n")


def test_alike_defenses_are_joined():
    tests = paired_tests(select(runs(gains=(0.3, 0.0, 0.3)), {}))
    assert tests is not None
    (clique,) = tests.cliques()
    assert set(clique) == {"X", "Z"}


def test_equal_defenses_do_not_differ():
    rows = runs()
    rows.loc[rows["defense"] == "Z", "asr"] = rows.loc[rows["defense"] == "X", "asr"].to_numpy()
    tests = paired_tests(select(rows, {}))
    assert tests is not None
    pairs = tests.pairs.set_index(["better", "worse"])
    assert pairs.loc[("X", "Z"), "p"] == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_steps_down(values):
    """Against the definition: reject while the k-th smallest is at most level / (m - k)."""
    corrected = holm(values)
    order = np.argsort(values, kind="stable")
    for level in (0.01, 0.05, 0.5):
        rejected = set()
        for k, index in enumerate(order):
            if values[index] * (len(values) - k) > level:
                break
            rejected.add(index)
        assert {i for i in range(len(values)) if corrected[i] <= level} == rejected


def test_the_reason_names_what_there_is_and_what_is_needed():
    few = select(runs(seeds=1, attacks=4), {})
    assert paired_tests(few) is None
    text = why_no_test(few)
    assert "4 cells" in text and "0.12, 0.38 after Holm's correction for 3 pairs" in text
    assert f"Needed: {needed_blocks(3)} cells" in text
    one = select(runs()[lambda rows: rows["defense"].isin(["No Defense", "X"])], {})
    assert "fewer than two" in why_no_test(one)


@pytest.mark.parametrize("defenses", [2, 3, 9])
def test_from_the_needed_number_on_a_difference_can_be_significant(defenses):
    pairs, least = defenses * (defenses - 1) // 2, needed_blocks(defenses)
    assert pairs * wilcoxon(np.arange(1.0, least + 1)).pvalue <= 0.05
    assert pairs * wilcoxon(np.arange(1.0, least)).pvalue > 0.05


def test_unsound_cells_cost_their_block_and_absent_defenses_are_left_out():
    rows = runs()
    rows.loc[
        (rows["defense"] == "Y") & (rows["seed"] == 1) & (rows["attack"] == "A2"), "status"
    ] = "failed"
    gone = (rows["defense"] == "Z") & (rows["attack"] == "A0")
    scores = scored_blocks(select(rows[~gone], {}))
    assert list(scores) == ["X", "Y"] and len(scores) == 17
    assert ("A2", 1) not in scores.index


def test_the_diagram_shows_ranks_and_bars():
    ranks = Series({"X": 1.2, "Z": 1.9, "Y": 2.9})
    pairs = DataFrame(
        [
            ("X", "Z", 1.0, 1.0, 18, 0.5, 0.5),
            ("X", "Y", 9, 1, 18, 0, 0),
            ("Z", "Y", 8, 1, 18, 0, 0),
        ],
        columns=["better", "worse", "difference", "std", "n", "p", "corrected"],
    )
    tests = PairedTests(ranks, 0.001, pairs)
    figure = critical_difference(tests, looks(runs()))
    (axis,) = figure.axes
    texts = {text.get_text() for text in axis.texts}
    assert {"X (1.20)", "Z (1.90)", "Y (2.90)", "1", "2", "3", "better to the left"} == texts
    bars = [line for line in axis.lines if line.get_linewidth() == 2.5]
    assert len(bars) == 1 and "18 cells" in figure.texts[0].get_text()
    at = {
        line.get_color(): line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 3
    }
    x, z, y = (at[look.colour] for look in map(looks(runs()).get, "XZY"))
    ends = bars[0].get_xdata()
    assert ends[0] < x < z < ends[1] < y
    figure.canvas.draw()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02 and box.x1 < page[0] + 0.02 and box.y0 > -0.02
