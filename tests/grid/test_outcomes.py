"""Rows of cells without results, and of jobs whose rows no table can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import Grid, make_grid
from sau_bench.benchmark.report.read import read_rows

GRID = make_grid(
    Config(
        datasets=["digits"],
        models=["small_cnn"],
        attacks=["badnets", "lf"],
        defenses=["ft", "anp"],
        seeds=[0, 1],
        clean_model=True,
    )
)


class Jobs(dict[str, Any]):
    """Rows of finished jobs by key; an exception in their place is raised."""

    def rows(self, key: str) -> Any:
        if isinstance(self[key], Exception):
            raise self[key]
        return self[key]


def finished(grid: Grid = GRID) -> Jobs:
    """Every job of the grid with sound rows."""
    scores = {"acc": 0.9, "asr": 0.8, "racc": 0.1, "own_acc": 0.9, "own_acc_before": 0.9}
    rows = Jobs()
    for victim, defended in grid.cells():
        row = {"status": "ok", "seconds": 1.0, "note": ""} | scores
        if defended is None:
            rows[victim.key] = [row | {"kind": "victim", "step": 0, "poison_ratio": 0.1}]
        else:
            kind = {"kind": defended.defense.yields}
            rows[defended.key] = [row | kind | {"step": s, "value": 0.1 * s} for s in (1, 2)]
    for clean in grid.references:
        rows[clean.key] = [{"kind": "clean", "step": 0, "status": "ok", "acc": 0.9}]
    return rows


VICTIM = GRID.victims[0]
DEFENDED = next(d for v, d in GRID.cells() if d and v == VICTIM)
WHOLE = GRID.rows(finished())


def one(rows: pd.DataFrame, key: str) -> pd.Series:
    (index,) = rows.index[rows["key"] == key]
    return rows.loc[index]


def others(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    return rows[~rows["key"].isin(keys)].dropna(axis=1, how="all").reset_index(drop=True)


def test_a_complete_grid_has_the_same_rows_whether_failures_are_known_or_not():
    pd.testing.assert_frame_equal(GRID.rows(finished(), lambda key: None), WHOLE)
    assert set(WHOLE["status"]) == {"ok"} and len(WHOLE) == 4 * 5 + 2


def test_unfinished_jobs_have_a_row_that_says_why_where_failures_are_known():
    """A victim has failed: its defenses are blocked; an asset has failed: a victim is blocked."""
    results = finished()
    asset = next(v.asset for v in GRID.victims if v.asset and v.seed == 1)
    hidden = next(v for v in GRID.victims if v.asset == asset)
    for job in (VICTIM, hidden, *(d for v, d in GRID.cells() if d and v in (VICTIM, hidden))):
        del results[job.key]
    missing = next(d for v, d in GRID.cells() if d and v not in (VICTIM, hidden))
    clean = GRID.references[0]
    for key in (missing.key, clean.key):
        del results[key]
    failures = {
        VICTIM.key: {"kind": "out of memory", "error": "CUDA\n\x1b out" + "!" * 999},
        asset.key: {"kind": "error", "error": "ValueError: no pattern"},
        clean.key: {"error": "boom"},
    }
    rows = GRID.rows(results, failures.get)
    failed = one(rows, VICTIM.key)
    assert (failed["kind"], failed["step"], failed["status"]) == ("victim", 0, "failed")
    assert failed["note"].startswith("out of memory: CUDA out!!") and len(failed["note"]) == 300
    assert pd.isna(failed[["acc", "asr", "seconds"]]).all()
    blocked = one(rows, DEFENDED.key)
    assert (blocked["kind"], blocked["status"]) == ("rounds", "blocked")
    assert blocked["note"] == "its victim has failed"
    assert (blocked["defense"], blocked["select"], blocked["clean_ratio"]) == ("FT", "last", 0.05)
    assert (one(rows, hidden.key)["status"], one(rows, hidden.key)["note"]) == (
        "blocked",
        f"{asset} failed: ValueError: no pattern",
    )
    anp = next(d for v, d in GRID.cells() if d and v == hidden and d.defense.name == "ANP")
    assert one(rows, anp.key)["kind"] == "candidates"
    assert one(rows, anp.key)["note"] == "its victim is blocked"
    assert one(rows, missing.key)[["status", "note"]].tolist() == ["missing", "not run yet"]
    assert one(rows, clean.key)[["kind", "status", "note"]].tolist() == ["clean", "failed", "boom"]
    # All cells and references are there, in the grid's order.
    keys = [(d or v).key for v, d in GRID.cells()] + [job.key for job in GRID.references]
    assert rows["key"].drop_duplicates().tolist() == keys
    assert set(GRID.rows(results)["status"]) == {"ok"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "the job has measured nothing"),
        ({}, "the job has measured nothing"),
        (None, "the job has measured nothing"),
        (["text"], "a row is a str, expected a mapping"),
        ([finished()[DEFENDED.key][0], 7], "a row is a int, expected a mapping"),
        ([finished()[DEFENDED.key][0] | {"value": "high"}], "value 'high' is no number"),
        ([finished()[VICTIM.key][0]], "a row of kind 'victim', expected 'rounds'"),
        (InputError("/cache/k: rows.json is cut\nremove it"), "/cache/k: rows.json is cut remove"),
        (ValueError("not JSON"), "not JSON"),
    ],
    ids=lambda value: None if isinstance(value, str) else "rows",
)
def test_unusable_rows_cost_their_own_cell(rows, why):
    results = finished()
    results[DEFENDED.key] = rows
    made = GRID.rows(results)
    lost = one(made, DEFENDED.key)
    assert lost[["kind", "step", "status"]].tolist() == ["rounds", 0, "unusable"]
    assert lost["note"].startswith(why)
    assert (lost["attack"], lost["defense"], lost["seed"]) == ("BadNets", "FT", 0)
    pd.testing.assert_frame_equal(others(made, DEFENDED.key), others(WHOLE, DEFENDED.key))


json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "status", "acc", "asr", "step", "note"]), inner, max_size=5
        )
    ),
    max_leaves=8,
)
row = st.dictionaries(st.sampled_from(list(finished()[VICTIM.key][0])), json, max_size=3)
row = row.map(lambda changes: finished()[VICTIM.key][0] | changes)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=json | st.lists(row, min_size=1, max_size=2))
def test_whatever_one_job_wrote_the_rows_of_the_others_stay(rows, tmp_path):
    """Of a victim, whose defenses depend on it; up to what `rows.csv` says when it is read."""
    results = finished()
    results[VICTIM.key] = rows
    made = GRID.rows(results)
    file = Path(tmp_path, "rows.csv")
    made.to_csv(file, index=False)
    found, expected = read_rows(file), WHOLE.assign(note=WHOLE["note"].fillna(""))
    columns = ["key", "kind", "step", "status", "acc", "asr", "note"]
    pd.testing.assert_frame_equal(
        found.loc[found["key"] != VICTIM.key, columns].reset_index(drop=True),
        expected.loc[expected["key"] != VICTIM.key, columns].reset_index(drop=True),
        check_dtype=False,
        check_exact=False,
    )
    assert (found["key"] == VICTIM.key).any()
