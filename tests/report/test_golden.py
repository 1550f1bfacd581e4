"""The golden report, whose rows a run of the harness wrote, and the schema that rows keep."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from make_golden import CONFIG, GOLDEN, make_tables

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.grid.config import Config, read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.rows import (
    AXES,
    COLUMNS,
    KINDS,
    LATER_COLUMNS,
    NO_RESULT,
    PART_COLUMNS,
    RULES,
    STATUSES,
    check_rule,
)


def test_the_golden_rows_give_the_golden_tables_each_time(tmp_path):
    for copy in ("a", "b"):
        (tmp_path / copy).mkdir()
        files = make_tables(tmp_path / copy)
        stored = {path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.*")} - {Path("rows.csv")}
        assert stored == set(files)
        for file in files:
            written = tmp_path / copy / "golden" / file
            assert written.read_bytes() == (GOLDEN / file).read_bytes(), file
    figures = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("figures/*.*")]
    assert len(figures) == 8
    for figure in [*figures, Path("golden", "report.html")]:
        assert (tmp_path / "a" / figure).read_bytes() == (tmp_path / "b" / figure).read_bytes()


def test_the_golden_rows_have_every_column_kind_and_status():
    columns = pd.read_csv(GOLDEN / "rows.csv", nrows=0).columns
    # They are of the version before the last columns: such files stay readable.
    assert list(columns) == [c for c in (*COLUMNS, *PART_COLUMNS) if c not in LATER_COLUMNS]
    rows = read_rows(GOLDEN / "rows.csv")
    assert set(rows["kind"]) == set(KINDS) - {"asset"}  # an asset has no scores
    assert set(rows["status"]) == {*STATUSES, *NO_RESULT}
    config = read(CONFIG)
    assert set(rows["seed"]) == set(config.seeds)
    victims = rows[rows["kind"] == "victim"]
    assert len(victims) == len(config.attacks) * len(config.seeds)


def test_every_golden_row_of_an_attack_has_a_poisoning_ratio():
    rows = read_rows(GOLDEN / "rows.csv")
    without = rows["status"].isin(NO_RESULT)
    assert (rows["status"] == "not applicable").any()
    assert rows.loc[~without, "poison_ratio"].notna().all()
    assert rows.loc[without, ["acc", "asr", "poison_ratio"]].isna().all(axis=None)
    assert rows.loc[without, "note"].ne("").all()
    assert not re.search(r"\bnan\b", (GOLDEN / "report.md").read_text("utf-8"))


def test_golden_candidates_have_the_accuracy_before_the_defense():
    rows = read_rows(GOLDEN / "rows.csv")
    candidates = rows[(rows["kind"] == "candidates") & ~rows["status"].isin(NO_RESULT)]
    assert candidates["own_acc_before"].between(0.1, 1).all()
    assert (candidates.groupby("key")["own_acc_before"].nunique() == 1).all()
    assert rows.loc[rows["kind"] == "victim", "own_acc_before"].isna().all()


@pytest.fixture(scope="module")
def harness_rows(tmp_path_factory):
    """A row of a victim and of a method that does not apply to its network."""
    config = Config(
        datasets=["digits"],
        models=["small_cnn:4"],
        attacks=["badnets"],
        defenses=[{"nad": {"betas": [1, 1, 1, 1]}}],
        recipe={"epochs": 1},
    )
    grid, store = make_grid(config), Store(tmp_path_factory.mktemp("cache"))
    for job in grid.jobs():
        run_job(job, store, Path(), torch.device("cpu"))
    return grid.rows(store)


def test_a_row_of_a_method_that_is_not_applicable_is_complete(harness_rows):
    assert list(harness_rows.columns) == list(COLUMNS)
    victim, missing = harness_rows.to_dict("records")
    assert (missing["status"], missing["step"]) == ("not applicable", 0)
    assert missing["poison_ratio"] == victim["poison_ratio"] == pytest.approx(0.1, abs=0.01)
    assert "stages" in missing["note"] and pd.isna(missing["acc"])


def test_the_axes_are_the_first_columns():
    assert list(COLUMNS)[: len(AXES)] == list(AXES)


@pytest.mark.parametrize("rule", ["last", "own", "oracle", "fixed:0.4", "fixed:-1e-3", "fixed:2"])
def test_rules(rule):
    assert any(rule.startswith(accepted.removesuffix("V")) for accepted in RULES)
    check_rule(rule, "ANP")
