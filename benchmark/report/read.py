"""`rows.csv` as a frame that tables can be made of.

A run that no table can use costs its cell and nothing else: one row of status "unusable", whose
note says why, takes the place of its rows.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series

from sau_bench.benchmark.errors import InputError, one_line
from sau_bench.benchmark.rows import (
    AXES,
    COLUMNS,
    EXTRA_COLUMNS,
    LATER_COLUMNS,
    NO_RESULT,
    UNDEFENDED,
    fault,
    without_result,
)

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LABELS = list(AXES)


def read_rows(path: Path) -> DataFrame:
    """The rows of one configuration, with every column of `COLUMNS`; an empty cell is "" or NaN.

    Unusable is a run with a faulty row (`benchmark.rows.fault`), with two rows for a step, whose
    labels or key another run has too, or that has no row of its victim.

    Raises:
        InputError: no such file, no CSV, missing columns, no usable row, or a seed that is none.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the grid first")
    rows, cut = _text(path)
    for name in LATER_COLUMNS:
        rows[name] = rows.get(name, "")
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; run the grid again")
    if rows.empty:
        raise InputError(f"{path} has no rows")
    if unknown := [text for text in rows["seed"] if not re.fullmatch("[0-9]{1,10}", text)]:
        raise InputError(f"{path}: column seed: {unknown[0]!r} is no seed")
    numbers = [name for name, kind in COLUMNS.items() if kind is float]
    numbers += [name for name in EXTRA_COLUMNS if name in rows]
    faults = _faults(rows, numbers).mask(cut, "a row with too few or too many cells")
    # The first fault of a run is that of all its rows.
    faults = faults.where(faults.ne("")).groupby([rows[axis] for axis in AXES]).transform("first")
    if faults.notna().all():
        raise InputError(f"{path}: no row is usable; the first: {faults.iloc[0]}")
    rows = _usable(rows, faults)
    for name in numbers:
        column = pd.to_numeric(rows[name].mask(rows[name] == ""))
        rows[name] = column.astype(float) if column.dtype == object else column
    return rows


def _text(path: Path) -> tuple[DataFrame, Series]:
    """The rows as text, and which of them are cut short or too long.

    Keys are hex and notes free text: neither may be read as a number or as a missing value.
    """
    try:
        text = path.read_bytes().decode()
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None
    header, *records = lines or [[]]
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{path} has the column {twice[0]!r} twice")
    width = len(header)
    rows = DataFrame([(line + [""] * width)[:width] for line in records], columns=header, dtype=str)
    cut = Series([len(line) != width for line in records], index=rows.index, dtype=bool)
    if len(cut) and not text.endswith("\n"):
        cut.iloc[-1] = True
    return rows, cut


def _faults(rows: DataFrame, numbers: list[str]) -> Series:
    """What is wrong with each row, all text; "" where nothing is."""
    typed = rows.astype(object)
    for name in numbers:
        typed[name] = [
            float(text) if NUMBER.fullmatch(text) else text or None for text in rows[name]
        ]
    faults = Series([fault(row) for row in typed.to_dict("records")], index=rows.index)
    undefended = rows["defense"].eq(UNDEFENDED)
    clean = rows["attack"].eq("") & rows["defense"].eq("")
    kinds = rows["kind"].eq("victim").ne(undefended) | rows["kind"].eq("clean").ne(clean)
    jobs = rows.groupby(LABELS)["key"].transform("nunique")
    place = ["dataset", "model", "attack", "seed"]
    cells = [tuple(cell) for cell in rows[place].to_numpy()]
    victims = {c: k for c, k, none in zip(cells, rows["key"], undefended, strict=True) if none}
    victim = Series([victims.get(cell) for cell in cells], index=rows.index)
    results = ~rows["status"].isin(NO_RESULT)
    for wrong, why in (
        (kinds | rows["kind"].eq("asset"), "its kind does not fit its labels"),
        (jobs > 1, "several jobs have its labels"),
        (results & rows.duplicated(["key", "step"], keep=False), "two rows have its key and step"),
        (results & ~clean & rows["victim"].ne(victim), "no row of its victim"),
    ):
        faults = faults.mask(faults.eq("") & wrong, why)
    return faults


def _usable(rows: DataFrame, faults: Series) -> DataFrame:
    """The rows, all text, with one row in place of those of each run that has a fault."""
    rows = rows[faults.isna() | ~rows.duplicated(LABELS)].copy()
    for index in rows.index[faults[rows.index].notna()]:
        row = rows.loc[index]
        lost = without_result(_kind(row), "unusable", faults[index])
        known = {name: row[name] for name in (*AXES, "key", "victim", "select", "uses")}
        text = {name: str(value) for name, value in (known | lost).items()}
        rows.loc[index] = Series(dict.fromkeys(rows.columns, "") | text)
    return rows.reset_index(drop=True)


def _kind(row: Series) -> str:
    """The kind of a run, by its labels: its row may say anything."""
    if row["defense"] == UNDEFENDED:
        return "victim"
    if not row["attack"] and not row["defense"]:
        return "clean"
    return str(row["kind"]) if row["kind"] in ("rounds", "candidates") else "rounds"
