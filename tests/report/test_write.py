"""The files that a report writes, and the rows that it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pandas import DataFrame
from table_rows import VICTIM, row

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.write import report
from sau_bench.benchmark.rows import LATER_COLUMNS


def test_several_pairs_get_folders_of_their_own(tmp_path):
    rows = [
        row("LF", d, 0.9, 0.1, model=m, key=m + d, victim=f"{m}No Defense")
        for m in ("VGG19", "ViT (tiny)")
        for d in ("No Defense", "FT")
    ]
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    names = {path.relative_to(tmp_path).as_posix() for path in report(tmp_path, {})}
    assert {"tables/cifar-10-vgg19/der.tex", "figures/cifar-10-vit-tiny/der.png"} <= names


def test_victims_alone_make_a_report(tmp_path):
    DataFrame([VICTIM]).to_csv(tmp_path / "rows.csv", index=False)
    stale = tmp_path / "tables" / "der.md"
    stale.parent.mkdir()
    stale.write_text("of an earlier run")
    names = {path.name for path in report(tmp_path, {})}
    assert not stale.exists()
    assert {"acc.md", "scatter.pdf"} <= names and not {"der.md", "cost.md", "curves.pdf"} & names


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop(columns=["asr", "warning"]), "asr, warning"),
        (lambda rows: rows[:0], "no rows"),
        (lambda rows: rows.assign(status="fine"), "no row is usable.*status 'fine' is unknown"),
        (lambda rows: rows.assign(kind="model"), "kind 'model' is unknown"),
        (lambda rows: rows.assign(acc="high"), "acc 'high' is no number"),
        (lambda rows: rows.assign(victim="gone"), "no row of its victim"),
        (lambda rows: rows.assign(seed="one"), "column seed: 'one' is no seed"),
        (lambda rows: rows.assign(seed="9" * 99), "is no seed"),
    ],
)
def test_bad_rows_are_refused_in_one_line(tmp_path, spoil, message):
    spoil(DataFrame([VICTIM])).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        report(tmp_path, {})
    assert str(tmp_path / "rows.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_a_version_without_the_last_columns_are_read(tmp_path):
    rows = DataFrame([VICTIM])
    rows.drop(columns=[*LATER_COLUMNS]).to_csv(tmp_path / "rows.csv", index=False)
    assert read_rows(tmp_path / "rows.csv")["arithmetic"].tolist() == [""]
    report(tmp_path, {})
    assert "Arithmetic" not in (tmp_path / "report.md").read_text()
    rows.assign(arithmetic="bf16").to_csv(tmp_path / "rows.csv", index=False)
    report(tmp_path, {})
    text = (tmp_path / "report.md").read_text()
    assert "Arithmetic of the training: bf16 (No Defense)." in text


def test_missing_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"rows\.csv"):
        report(tmp_path, {})


def test_hex_keys_stay_text(tmp_path):
    DataFrame([VICTIM | {"key": "12e4", "victim": "12e4", "note": "NA"}]).to_csv(
        tmp_path / "rows.csv"
    )
    rows = read_rows(tmp_path / "rows.csv")
    assert (rows.at[0, "key"], rows.at[0, "note"]) == ("12e4", "NA")


def test_no_torch():
    code = "import sys, benchmark.report.write; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
