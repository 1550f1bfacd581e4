"""Numbers of a frame are computed once, and forgotten with it."""

from __future__ import annotations

import gc

from pandas import DataFrame
from pandas.testing import assert_frame_equal
from table_rows import SCORES, grid

from sau_bench.benchmark.report.memory import remembered
from sau_bench.benchmark.report.tables import pivot


def test_a_function_runs_once_for_each_frame_and_arguments_and_forgets_them():
    calls = []

    @remembered
    def doubled(frame, column):
        calls.append(column)
        return frame[[column]] * 2

    for _ in range(2):  # the second frame may have the place in memory of the first one
        frame = DataFrame({"a": [1.0], "b": [3.0]})
        for _ in range(3):
            assert doubled(frame, "a").iloc[0, 0] == 2 and doubled(frame, "b").iloc[0, 0] == 6
        del frame
        gc.collect()
    assert calls == ["a", "b"] * 2


def test_what_a_caller_does_to_a_result_stays_with_the_caller():
    selected = grid(SCORES)
    first = pivot(selected, "acc")
    whole = first.copy()
    first.loc["Average"] = 0.0
    first["more"] = 1.0
    assert_frame_equal(pivot(selected, "acc"), whole)
