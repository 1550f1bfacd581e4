"""Reports of grids in which jobs have failed: every cell stands in the tables, with its reason."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from table_rows import ANP, SCORES, VICTIM, row

from sau_bench.benchmark.cli.report import write_report
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.report import figures
from sau_bench.benchmark.report.write import report

GONE = dict.fromkeys(("acc", "asr", "racc", "seconds", "peak_mib", "poison_ratio"), np.nan)
GONE |= {"device": "", "versions": "", "step": 0}
SOUND = [row(a, d, *pair) for a, line in SCORES.items() for d, pair in line.items()]


def lost(made: dict[str, Any], status: str, note: str = "boom") -> dict[str, Any]:
    return made | GONE | {"status": status, "note": note}


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time, and shows nothing new."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})


def text_of(tmp_path, rows, rules=()) -> str:
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    files = report(tmp_path, dict(rules))
    assert all(file.stat().st_size for file in files)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert not re.search(r"\bnan\b", text)
    return text


def test_a_failed_victim_and_its_blocked_defenses_stand_in_every_table(tmp_path):
    victim = lost(row("LF", "No Defense", 0, 0), "failed", "ValueError: a | b")
    blocked = [lost(row("LF", d, 0, 0), "blocked", "its victim has failed") for d in ("FT", "SAU")]
    text = text_of(tmp_path, [*SOUND, victim, *blocked])
    for name in ("acc", "asr", "der", "effect", "racc"):
        table = (tmp_path / "tables" / f"{name}.md").read_text("utf-8")
        line = next(line for line in table.splitlines() if line.startswith("| LF¶"))
        undefended = [] if name in ("der", "effect") else ["failed"]
        assert line.split(" | ")[1:] == [*undefended, "blocked", "blocked |"]
        assert "\nfailed: No Defense (LF): ValueError: a | b\n" in table
        assert "\nblocked: FT (LF); SAU (LF): its victim has failed\n" in table
        latex = (tmp_path / "tables" / f"{name}.tex").read_text("utf-8")
        assert "failed: No Defense (LF): ValueError" in latex
    attention = text.split("## Attention")[1]
    assert r"| LF | No Defense | 0 | failed |  | ValueError: a \| b |" in attention
    assert "Not ok or with a warning: [3 of 9 runs]" in text
    # The Average is that of the other attacks.
    table = pd.read_csv(tmp_path / "tables" / "acc.csv", index_col="attack")
    assert table.loc["Average", "FT"] == pytest.approx(92.5)
    assert table.loc["LF", "status"] == "No Defense failed; SAU blocked; FT blocked"


def test_a_defense_that_fails_everywhere_keeps_its_column(tmp_path, no_figures):
    rows = [*SOUND, *(lost(row(a, "NAD", 0, 0), "failed") for a in SCORES)]
    text = text_of(tmp_path, rows)
    assert "| BadNets | 90.00 | <u>90.00</u> | **95.00** | failed |" in text
    assert "failed: NAD (BadNets, WaNet): boom" in text
    assert "NAD" not in text_of(tmp_path, SOUND)


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_grid_without_any_result_has_a_report(tmp_path, status):
    text = text_of(tmp_path, [lost(run, status) for run in SOUND])
    mark = "-" if status == "missing" else status
    assert f"| BadNets¶ | {mark} | {mark} | {mark} |" in text
    assert "No Defense (BadNets, WaNet)" in text


def test_a_clean_model_that_failed_is_named(tmp_path, no_figures):
    clean = VICTIM | {"attack": "", "defense": "", "kind": "clean", "victim": ""}
    one, other = clean | {"key": "c0", "acc": 0.95}, clean | {"key": "c1", "seed": 1}
    text = text_of(tmp_path, [*SOUND, one, lost(other, "failed")])
    assert "A model trained on clean data by the same recipe: 95.00." in text
    assert "| trained on clean data | 1 | failed |  | boom |" in text
    assert "trained on clean data by" not in text_of(tmp_path, [*SOUND, lost(one, "failed")])


def damaged_ft(column: str, text: object) -> dict[str, Any]:
    return row("BadNets", "FT", 0.95, 0.2) | {column: text}


@pytest.mark.parametrize(
    ("damaged", "rules", "why"),
    [
        (damaged_ft("value", "high"), {}, "value 'high' is no number"),
        (damaged_ft("acc", "0.9.5"), {}, "acc '0.9.5' is no number"),
        (damaged_ft("status", "great"), {}, "status 'great' is unknown"),
        (damaged_ft("select", "best"), {}, "selection rule 'best' is unknown"),
        (
            damaged_ft("kind", "candidates") | {"select": "fixed:7"},
            {},
            "no candidate for 'fixed:7'",
        ),
        (damaged_ft("step", 1), {"FT": "own"}, "rule 'own' needs candidates"),
    ],
)
def test_a_bad_defense_costs_its_own_cells(tmp_path, damaged, rules, why, no_figures):
    """Every other line of the tables is the same as without the damage."""
    others = [r for r in SOUND if (r["attack"], r["defense"]) != ("BadNets", "FT")]
    others = [r for r in others if not rules or r["defense"] != "FT"]
    text = text_of(tmp_path, [*others, *ANP, damaged], rules)
    table = pd.read_csv(tmp_path / "tables" / "acc.csv", index_col="attack")
    assert "FT unusable" in table.loc["BadNets", "status"]
    assert pd.isna(table.loc["BadNets", "FT"]) and table.loc["BadNets", "SAU"] == 90
    assert why in next(line for line in text.splitlines() if line.startswith("unusable: FT (Bad"))
    assert why in text.split("## Attention")[1]
    text_of(tmp_path, [*others, *ANP], {})
    whole = pd.read_csv(tmp_path / "tables" / "acc.csv", index_col="attack")
    columns = ["No Defense", "SAU", "ANP"]
    pd.testing.assert_frame_equal(table[columns], whole[columns])


def test_the_config_says_whether_collapsed_victims_are_averaged(tmp_path, no_figures):
    weak = row("SIG", "No Defense", 0.7, 0.126, status="collapsed")
    rows = [*SOUND, weak, row("SIG", "FT", 0.7, 0.1), row("SIG", "SAU", 0.7, 0.0)]
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    lists = {"datasets": ["digits"], "models": ["small_cnn"], "attacks": ["badnets"]}
    averages = {}
    for kept in (False, True):
        write_report(tmp_path, Config(**lists, average_collapsed=kept), tmp_path / "gone.yaml")
        table = pd.read_csv(tmp_path / "tables" / "acc.csv", index_col="attack")
        averages[kept] = table.loc["Average", "No Defense"]
        text = (tmp_path / "report.md").read_text("utf-8")
        assert ("averages include collapsed victims" in text) is kept
        assert ("| SIG¶ |" in text) is not kept
        assert "ACC below 2 / number of classes or ASR below 50 %" in text
    assert averages == {False: 90.0, True: pytest.approx(83.33)}
