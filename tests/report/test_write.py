"""The files that a report writes, against golden ones; what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pandas import DataFrame
from table_rows import VICTIM, row

from benchmark.errors import InputError
from benchmark.report.write import read_rows, report

GOLDEN = Path(__file__).parent / "golden"


def test_golden(tmp_path):
    (tmp_path / "golden").mkdir()
    folder = tmp_path / "golden"
    (folder / "rows.csv").write_bytes((GOLDEN / "rows.csv").read_bytes())
    written = report(folder, {"ANP": "fixed:0.4"})
    texts = [path.relative_to(folder) for path in written if path.suffix not in (".pdf", ".png")]
    if os.environ.get("WRITE_GOLDEN"):
        for name in texts:
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_bytes((folder / name).read_bytes())
    stored = {p.relative_to(GOLDEN) for p in GOLDEN.rglob("*.*")} - {Path("rows.csv")}
    assert stored == set(texts)
    for name in texts:
        assert (folder / name).read_text("utf-8") == (GOLDEN / name).read_text("utf-8"), name
    before = {path: path.read_bytes() for path in written}
    assert report(folder, {"ANP": "fixed:0.4"}) == written
    assert {path: path.read_bytes() for path in written} == before


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
        (lambda rows: rows.drop(columns=["asr", "note"]), "lacks the columns note, asr"),
        (lambda rows: rows[:0], "has no rows"),
        (lambda rows: rows.assign(status="fine"), "status 'fine'; accepted: ok, diverged"),
        (lambda rows: rows.assign(acc="high"), "column acc: Unable to parse"),
        (lambda rows: rows.assign(victim="gone"), "no row for the victims gone"),
    ],
)
def test_bad_rows_are_told_in_one_line(tmp_path, spoil, message):
    spoil(DataFrame([VICTIM])).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        report(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_missing_rows_are_told(tmp_path):
    with pytest.raises(InputError, match=r"rows.csv does not exist"):
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
