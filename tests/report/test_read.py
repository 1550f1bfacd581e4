"""What a damaged `rows.csv` costs: the cells of the damaged rows, or the report in one line."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from pandas import DataFrame
from table_rows import ANP, VICTIM, row

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.tables import keep_collapsed, select
from sau_bench.benchmark.rows import AXES, COLUMNS, NO_RESULT, PART_COLUMNS, STATUSES

PARTS = {"asr_1": 0.9, "asr_2": 0.8, "racc_1": 0.1, "racc_2": 0.2}
CLEAN = VICTIM | {"attack": "", "defense": "", "kind": "clean", "key": "c", "victim": ""}
ROWS = [
    VICTIM,
    *ANP,
    row("BadNets", "FT", 0.9, 0.1),
    row("LF", "No Defense", 0.9, 0.9, **PARTS),
    row("LF", "FT", 0.9, 0.1, step=1, **PARTS),
    row("LF", "FT", 0.9, 0.1, step=2, **PARTS),
    CLEAN,
]
HOSTILE = ["", "high", "nan", "inf", "-1", "1e400", "1_0", " 1", "\uff11", "0x1", "True", "9" * 30]
HOSTILE += ["\x00", "a\nb", '"', "é", "fixed:x", "victim", "rounds", "asset", "c", "BadNetsFT0"]
HOSTILE += [*STATUSES, *NO_RESULT]
CELL = list(AXES)


@pytest.fixture
def file(tmp_path):
    DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def spoilt(file, *cells):
    """The rows that are read after some cells, (line, column, text), were replaced."""
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    for line, column, text in cells:
        rows.loc[line, column] = text
    rows.to_csv(file, index=False)
    return read_rows(file)


@pytest.mark.parametrize(
    ("line", "column", "text", "why"),
    [
        (5, "status", "fine", "status 'fine' is unknown"),
        (5, "kind", "model", "kind 'model' is unknown"),
        (5, "kind", "victim", "its kind does not fit its labels"),
        (5, "kind", "asset", "its kind does not fit its labels"),
        (5, "acc", "high", "acc 'high' is no number"),
        (5, "acc", "", "it has no ACC"),
        (5, "asr", "1.5", "asr 1.5 is no share in [0, 1]"),
        (5, "seconds", "1e400", "seconds is not finite"),
        (5, "victim", "LFNo Defense0", "no row of its victim"),
        (5, "key", "BadNetsANP0", "two rows have its key and step"),
        (2, "value", "high", "value 'high' is no number"),
        (2, "step", "1", "two rows have its key and step"),
        (2, "key", "other", "several jobs have its labels"),
    ],
)
def test_a_damaged_row_costs_its_run(file, line, column, text, why):
    before = read_rows(file)
    rows = spoilt(file, (line, column, text))
    run = before.loc[line, CELL]
    (lost,) = rows[(rows[CELL] == run).all(axis=1)].to_dict("records")
    assert (lost["status"], lost["note"], lost["step"]) == ("unusable", why, 0)
    assert pd.isna(lost["acc"]) and lost["device"] == ""
    assert select(rows[rows["kind"] != "clean"], {})["status"].isin(["ok", "unusable"]).all()


def test_the_defenses_of_a_damaged_victim_stay_and_have_no_der(file):
    rows = spoilt(file, (0, "acc", "high"))
    selected = select(rows[rows["kind"] != "clean"], {}).set_index(["attack", "defense"])
    assert selected["status"].value_counts().to_dict() == {"ok": 4, "unusable": 1}
    assert selected.at[("BadNets", "FT"), "acc"] == 0.9
    assert pd.isna(selected.at[("BadNets", "FT"), "der"])
    assert selected.at[("BadNets", "FT"), "victim_status"] == "unusable"


HOSTILE_CELLS = "a cell of rows.csv is replaced by something hostile"


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(40, marks=pytest.mark.tried(HOSTILE_CELLS, 40)),
        pytest.param(600, marks=[pytest.mark.slow, pytest.mark.tried(HOSTILE_CELLS, 600)]),
    ],
)
def test_a_corpus_of_hostile_cells_costs_no_other_run(file, size):
    """Hostile texts in columns that do not name a cell, one at a time and in pairs."""
    text = file.read_text()
    before = read_rows(file)
    columns = [name for name in (*COLUMNS, *PART_COLUMNS) if name not in AXES]
    draw = random.Random(0)
    for _ in range(size):
        file.write_text(text)
        cells = [
            (draw.randrange(len(ROWS)), draw.choice(columns), draw.choice(HOSTILE))
            for _ in range(draw.choice([1, 1, 2]))
        ]
        rows = spoilt(file, *cells)
        hit = [tuple(before.loc[line, CELL]) for line, *_ in cells]
        # A key that two runs have, and the key of a victim, concern further runs.
        keys = any(column in ("key", "victim") for _, column, _ in cells)
        for labels, run in () if keys else before.groupby(CELL, sort=False):
            if labels not in hit:
                same = rows[(rows[CELL] == list(labels)).all(axis=1)]
                pd.testing.assert_frame_equal(
                    same.reset_index(drop=True), run.reset_index(drop=True), check_dtype=False
                )
        assert set(map(tuple, rows[CELL].to_numpy())) == set(map(tuple, before[CELL].to_numpy()))
        for known in (rows, keep_collapsed(rows)):
            select(known[known["kind"] != "clean"], {})


def test_a_file_cut_anywhere_is_refused_in_a_line_or_has_whole_rows_only(file):
    content = file.read_bytes()
    before = read_rows(file).set_index([*CELL, "step"])[["acc", "asr", "seconds"]]
    for end in range(0, len(content), 23):
        file.write_bytes(content[:end])
        try:
            rows = read_rows(file)
        except InputError as error:
            assert "\n" not in str(error) and str(file) in str(error)
            continue
        sound = rows[rows["status"] == "ok"].set_index([*CELL, "step"])
        pd.testing.assert_frame_equal(
            sound[before.columns], before.loc[sound.index], check_dtype=False
        )


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"\x00" * 9, b'"' * 3, b"a,b\n1,2,3,4\n", b"\n\n"]
)
def test_a_file_that_is_no_table_is_refused_in_a_line(file, content):
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.csv") as caught:
        read_rows(file)
    assert "\n" not in str(caught.value)
