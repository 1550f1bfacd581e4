"""Trigger norms and times to effect beside those of the paper."""

from __future__ import annotations

import pytest
from pandas import DataFrame
from papers import cell, layout, published
from table_rows import row

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.published import Departure
from sau_bench.benchmark.report.costs import effect_table, published_times
from sau_bench.benchmark.report.norms import norm_table, read_norms
from sau_bench.benchmark.report.tables import select

VICTIMS = [row("LF", "No Defense", 0.9, 1.0, seed=s) for s in (0, 1)]
VICTIMS += [row("BadNets", "No Defense", 0.9, 1.0, seed=s) for s in (0, 1)]


def norms(tmp_path, text):
    file = tmp_path / "trigger_norms.csv"
    file.write_text(text)
    return read_norms(file)


def test_norms_of_victims_stand_beside_published_ones(tmp_path):
    measured = norms(
        tmp_path,
        "key,l1,l2,linf,mse\nLFNo Defense0,10,2,0.1,0.01\nLFNo Defense1,14,2,0.2,0.01\n"
        "of an older grid,1,1,1,1\n",
    )
    amplitude = Departure("attack", "amplitude", 0.1, 0.2)
    runs = {f"LFNo Defense{s}": [(cell("LF", "No Defense"), (amplitude,))] for s in (0, 1)}
    theirs = {"dataset": "CIFAR-10", "attack": "LF", "l1": "108.3", "l2": "", "linf": "0.33"}
    side = published({}, runs=runs, norms=[theirs])
    table = norm_table(measured, select(DataFrame(VICTIMS), {}), side)
    assert table is not None
    assert table.text.iloc[0].tolist() == [
        "LF", "12.0 ± 2.8", "108.3", "2.00 ± 0.00", "0.150 ± 0.071", "0.33", "0.0100 ± 0.0000",
    ]  # fmt: skip
    assert len(table.text) == 1 and table.numbers.at[0, "n"] == 2
    assert "LF amplitude 0.1 (0.2)" in table.notes[0]
    assert "0.01" in table.csv()
    bare = norm_table(measured, select(DataFrame(VICTIMS), {}), None)
    assert bare is not None and list(bare.text) == ["Attack", "L1", "L2", "L-inf", "MSE"]


def test_norms_of_other_victims_make_no_table(tmp_path):
    measured = norms(tmp_path, "key,l1,l2,linf,mse\nother,1,1,1,1\n")
    assert norm_table(measured, select(DataFrame(VICTIMS), {}), None) is None
    assert read_norms(tmp_path / "gone.csv") is None


@pytest.mark.parametrize("text", ["key,l1\na,1\n", "key,l1,l2,linf,mse\na,one,1,1,1\n", ""])
def test_other_files_are_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"trigger_norms\.csv.*measurements/trigger_norms\.py"):
        norms(tmp_path, text)


def test_times_stand_beside_those_of_table_7():
    rows = [row("LF", "No Defense", 0.9, 1.0, victim="LFNo Defense0")]
    for defense, seconds, asr in (("FT", 40.0, 0.9), ("SAU", 20.0, 0.0)):
        rows.append(row("LF", defense, 0.9, asr, seconds=seconds))
    rows.append(row("LF", "own idea", 0.9, 0.0, seconds=1.0))
    seconds = {cell("Average", "SAU"): 50.0, cell("Average", "FT"): 300.0}
    side = published({}, [layout(defenses=("FT", "SAU"))], seconds=seconds)
    selected = select(DataFrame(rows), {})
    effect = effect_table(DataFrame(rows), selected, 0.85)
    assert effect is not None
    table = published_times(effect, selected, side)
    assert table is not None
    assert table.text.to_numpy().tolist() == [
        ["FT", ">40.00", "300.00", "2.00", "6.00"],
        ["SAU", "20.00", "50.00", "1.00", "1.00"],
    ]
    assert "own idea" not in table.caption
    assert published_times(effect, selected, published({})) is None
