"""The verbs `report` and `leaderboard`: parts of a grid, several folders, and bad input."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from sau_bench.benchmark.cli import main as cli

ROOT = Path(__file__).parents[2]
CPU, RATE = (ROOT / "results" / name for name in ("cifar10_cpu", "sau_learning_rate_cpu"))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Copies of committed rows in a folder of results; figures are drawn elsewhere."""
    monkeypatch.setattr("sau_bench.benchmark.report.figures.draw", lambda *arguments: {})
    monkeypatch.chdir(ROOT)
    for folder in (CPU, RATE):
        (tmp_path / "results" / folder.name).mkdir(parents=True)
        shutil.copy(folder / "rows.csv", tmp_path / "results" / folder.name)
    return tmp_path / "results"


def report(results, *options, config="cifar10_cpu"):
    return cli.main(["report", f"configs/{config}.yaml", "--results", str(results), *options])


def test_only_makes_a_report_of_a_part_beside_the_whole(results, capsys):
    before = (results / "cifar10_cpu" / "rows.csv").read_bytes()
    assert report(results, "--only", "attack=wanet,defense=SAU", "--only=defense=anp") == 0
    part = results / "cifar10_cpu" / "part"
    rows = pd.read_csv(part / "rows.csv")
    assert set(rows["attack"]) == {"WaNet"} and set(rows["defense"]) == {"No Defense", "SAU", "ANP"}
    assert str(part / "report.html") in capsys.readouterr().out
    text = (part / "report.md").read_text()
    assert text.startswith("# cifar10_cpu: --only=attack=wanet,defense=SAU")
    assert "report configs/cifar10_cpu.yaml --only=attack=wanet,defense=SAU" in text
    assert (results / "cifar10_cpu" / "rows.csv").read_bytes() == before
    assert [path.name for path in (results / "cifar10_cpu").iterdir() if path.is_file()] == [
        "rows.csv"
    ]


def test_columns_are_the_metrics_that_are_shown(results):
    assert report(results, "--columns", "DER, acc", config="sau_learning_rate_cpu") == 0
    part = results / "sau_learning_rate_cpu" / "part"
    text = (part / "report.md").read_text()
    assert "| Defense | ACC | DER |" in text and "R-ACC" not in text
    assert "SAU (epochs=20) ACC | SAU (epochs=20) DER" in text
    assert not (part / "tables" / "racc.md").exists() and (part / "tables" / "der.md").exists()


def test_merged_folders_are_one_report_in_which_a_job_has_one_label(results):
    assert report(results, "--merge", str(results / "sau_learning_rate_cpu")) == 0
    part = results / "cifar10_cpu" / "part"
    rows = pd.read_csv(part / "rows.csv")
    assert not rows.duplicated(["key", "step"]).any()
    defenses = set(rows["defense"].dropna())
    assert {"SAU", "SAU (epochs=20)"} <= defenses
    assert "SAU (epochs=12, lr=0.0004)" not in defenses
    averages = pd.read_csv(part / "tables" / "averages.csv", index_col="Defense")
    whole = pd.read_csv(CPU / "tables" / "averages.csv", index_col="Defense")
    assert averages.loc["SAU", "DER"] == whole.loc["SAU", "DER"]
    published = (part / "tables" / "table3.md").read_text()
    assert "SAU (epochs=20) ACC" in published


def test_results_that_disagree_are_told_and_the_first_stay(results, capsys):
    other = results / "other"
    other.mkdir()
    rows = pd.read_csv(CPU / "rows.csv", dtype=str, keep_default_na=False)
    changed = (rows["defense"] == "FT") & (rows["attack"] == "LF") & (rows["step"] == "10")
    assert changed.sum() == 1
    rows.loc[changed, "acc"] = "0.5"
    rows.to_csv(other / "rows.csv", index=False)
    assert report(results, "--merge", str(other)) == 0
    out = capsys.readouterr().out
    assert out.count("note: ") == 1 and "LF / FT, seed 0" in out and "83.05 / 50.00" in out
    text = (results / "cifar10_cpu" / "part" / "report.md").read_text()
    assert "83.05 / 50.00" in text.split("## Attention")[1]
    acc = pd.read_csv(results / "cifar10_cpu" / "part" / "tables" / "acc.csv", index_col="attack")
    assert acc.loc["LF", "FT"] == 83.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "attack=wanett"], "no attack 'wanett' in this grid; accepted: "),
        (["--only", "wanet"], "'wanet' is not AXIS=NAME"),
        (["--columns", "acc,drr"], "'drr' is no metric; accepted: acc, asr, racc, der; did you"),
        (["--columns", ""], "'' is no metric"),
        (["--merge", "nowhere"], "nowhere has no rows; accepted: a results folder"),
        (["--merge", "README.md"], "README.md"),
        (["--merge", "{results}/cifar10_cpu"], "is named twice"),
    ],
)
def test_bad_options_end_in_one_line(results, capsys, options, message):
    options = [option.format(results=results) for option in options]
    assert report(results, *options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not (results / "cifar10_cpu" / "part").exists()


def test_a_leaderboard_of_committed_rows(results, capsys):
    places = [str(results / "cifar10_cpu"), str(results / "sau_learning_rate_cpu" / "rows.csv")]
    output = results / "board"
    assert cli.main(["leaderboard", *places, "--output", str(output)]) == 0
    assert str(output / "leaderboard.html") in capsys.readouterr().out
    frame = pd.read_csv(output / "leaderboard.csv")
    assert len(frame) == 70 + 4 and not frame["disputed"].any()
    assert set(frame.loc[frame["defense"] == "ANP", "selection"]) == {"fixed:0.4"}
    text = (output / "leaderboard.md").read_text()
    assert "Board 2 cannot be compared with board 1: selection fixed:0.4 (last)" in text
    assert "What the sources disagree about" not in text


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["nowhere"], "nowhere has no rows; accepted: a results folder, or its rows.csv"),
        (["README.md"], "README.md"),
        (["{cpu}", "{cpu}/rows.csv"], "is named twice"),
        (["{cpu}", "--config", "nowhere.yaml"], "nowhere.yaml"),
        ([], "FOLDER_OR_ROWS"),
    ],
)
def test_bad_leaderboards_end_in_one_line(results, tmp_path, capsys, places, message):
    words = [place.format(cpu=results / "cifar10_cpu") for place in places]
    assert cli.main(["leaderboard", *words, "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()
