"""Whose rows a results folder holds, and which of them a run may replace."""

import os
import shutil

import pandas as pd
import pytest
import yaml

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid

BASE = {
    "datasets": ["digits"],
    "models": ["small_cnn:4"],
    "attacks": ["badnets", "sig"],
    "defenses": ["ft", "fp"],
    "recipe": {"epochs": 1},
}
ROW = {"step": 0, "status": "ok", "note": "", "warning": "", "seconds": 1.0, "peak_mib": 1.0}
ROW |= {"acc": 0.9, "asr": 0.8, "racc": 0.1, "n_clean": 9, "n_poisoned": 8, "poison_ratio": 0.1}
ROW |= {"device": "2-thread CPU", "versions": "torch 2"}


def write(folder, name="tiny", **changes):
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(BASE | changes))
    return file


def publish(config, cache, **changes):
    """All jobs of the grid, as a worker leaves them, with measurements that tell them apart."""
    store = Store(cache)
    for number, job in enumerate(make_grid(read(config)).jobs()):
        kind = "rounds" if hasattr(job, "victim") else "victim"
        with store.draft(job.key) as draft:
            draft.write_json("job.json", job.canonical())
            row = ROW | {"kind": kind, "acc": 0.9 + number / 1000} | changes
            draft.write_json("rows.json", [row])
    return store


def run(config, root, *more):
    return cli.main(["run", str(config), "--results", str(root), "--device", "cpu", *more])


def rows(root, name="tiny"):
    return (root / name / "rows.csv").read_text().splitlines()


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """What the rows look like in tables is no matter here, and drawing them takes seconds."""
    monkeypatch.setattr("sau_bench.benchmark.report.write.report", lambda *arguments: [])


@pytest.fixture
def clone(tmp_path):
    """A fresh clone: committed rows, and a cache without the jobs of SIG: (config, results)."""
    config, results = write(tmp_path / "configs"), tmp_path / "results"
    publish(config, results / "cache")
    assert run(config, results) == 0 and len(rows(results)) == 7
    shutil.rmtree(results / "cache")
    store = publish(config, results / "cache", acc=0.5)
    for job in make_grid(read(config), ["attack=sig"]).jobs():
        store.remove(job.key)
    return config, results


def test_only_in_a_fresh_clone_replaces_what_it_measured_and_keeps_the_rest(clone):
    config, results = clone
    before = rows(results)
    assert run(config, results, "--only", "attack=badnets") == 0
    after = rows(results)
    assert after[0] == before[0] and after[4:] == before[4:]
    assert all(",0.5," in line for line in after[1:4])
    assert run(config, results, "--only", "attack=badnets") == 0
    assert rows(results) == after


def test_rows_that_stay_have_the_labels_and_the_order_of_the_grid_as_it_is_now(clone):
    config, results = clone
    before = rows(results)
    write(config.parent, attacks=[{"sig": {"delta": 0.2}}, "sig", "badnets"])
    assert run(config, results, "--only", "attack=badnets") == 0
    after = rows(results)
    attacks = ["SIG (delta=0.2)"] * 3 + ["SIG"] * 3 + ["BadNets"] * 3
    assert [line.split(",")[2] for line in after[1:]] == attacks
    assert all("not run yet" in line for line in after[1:4]) and after[4:7] == before[4:]


def test_rows_of_jobs_that_left_the_grid_go_with_a_line_that_counts_them(clone, capsys):
    config, results = clone
    write(config.parent, defenses=["ft"])
    capsys.readouterr()
    assert run(config, results, "--only", "attack=badnets") == 0
    assert "dropped 2 jobs that are no longer in the grid" in capsys.readouterr().out
    assert len(rows(results)) == 5


def test_a_rule_that_names_a_plugin_reaches_the_report_by_its_label(tmp_path, monkeypatch, capsys):
    config, results = write(tmp_path, defenses=["anp"], select={"anp": "own"}), tmp_path / "results"
    publish(config, results / "cache")
    seen = []
    arguments = "sau_bench.benchmark.report.write.report"
    monkeypatch.setattr(arguments, lambda folder, rules, *more: seen.append(rules) or [])
    assert run(config, results) == 0
    assert cli.main(["report", str(config), "--results", str(results)]) == 0
    assert seen == [{"ANP": "own"}] * 2
    (tmp_path / "gone.py").touch()
    write(tmp_path, defenses=[str(tmp_path / "gone.py")], select={"ANP": "own"})
    assert cli.main(["report", str(config), "--results", str(results)]) == 0
    assert seen[2:] == [{"ANP": "own"}] and "`select` is taken by labels" in capsys.readouterr().out


def test_another_config_of_the_same_name_is_refused_before_anything_happens(clone, capsys):
    config, results = clone
    other = write(config.parent.parent / "mine", attacks=["badnets"], defenses=[])
    files = {f: f.read_bytes() for f in results.rglob("*") if f.is_file()}
    for argv in (["run", "--device", "cpu"], ["report"]):
        capsys.readouterr()
        assert cli.main([argv[0], str(other), "--results", str(results), *argv[1:]]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert "../../configs/tiny.yaml" in err and "5 of its 6 jobs" in err
        assert {f: f.read_bytes() for f in results.rglob("*") if f.is_file()} == files


def test_a_copy_of_the_config_elsewhere_is_the_same_config(clone):
    config, results = clone
    copy = write(config.parent.parent / "mine")
    assert run(copy, results, "--only", "attack=badnets") == 0
    assert cli.main(["report", str(copy), "--results", str(results)]) == 0
    grown = write(config.parent.parent / "mine", defenses=["ft", "fp", "nc"])
    assert run(grown, results, "--only", "attack=badnets,defense=ft") == 0
    after = rows(results)
    assert len(after) == 9 and sum("not run yet" in line for line in after) == 2


def test_committed_rows_belong_to_the_config_of_their_name_in_configs(clone, capsys):
    config, results = clone
    assert not (results / "tiny" / "config.txt").exists()
    write(config.parent, defenses=["ft"])
    assert run(config, results, "--only", "attack=badnets") == 0 and len(rows(results)) == 5
    other = write(config.parent.parent, defenses=[])
    assert run(other, results) == 2
    assert len(rows(results)) == 5


def test_rows_of_a_config_in_a_folder_of_configs_lie_in_a_folder_of_that_name(clone, capsys):
    config, results = clone
    inner = write(config.parent / "paper")
    assert run(inner, results, "--only", "attack=badnets") == 0
    folder = results / "paper" / "tiny"
    assert (folder / "rows.csv").is_file() and not (folder / "config.txt").exists()
    other = write(config.parent.parent, attacks=["badnets"], defenses=[])
    assert run(other, results / "paper") == 2
    assert "holds rows of another config" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "status", "show"])
def test_a_config_that_is_called_like_the_cache_is_refused(tmp_path, capsys, verb):
    config = write(tmp_path, "cache")
    assert cli.main([verb, str(config), "--results", str(tmp_path / "results")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "into the cache" in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n", b'"', b"key\n1,2,3\n4\n"])
def test_rows_that_cannot_be_read_are_not_overwritten(clone, capsys, content):
    config, results = clone
    (results / "tiny" / "rows.csv").write_bytes(content)
    assert run(config, results, "--only", "attack=badnets") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "move it away" in err
    assert (results / "tiny" / "rows.csv").read_bytes() == content


def test_a_pipe_in_place_of_the_rows_is_not_waited_for(clone, capsys):
    config, results = clone
    (results / "tiny" / "rows.csv").unlink()
    os.mkfifo(results / "tiny" / "rows.csv")
    for argv in (["run", str(config), "--device", "cpu"], ["report", str(config)]):
        assert cli.main([*argv, "--results", str(results)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_notes_with_characters_that_no_file_takes_are_cleaned(tmp_path, capsys):
    config, results = write(tmp_path), tmp_path / "results"
    publish(config, results / "cache", note="a \ud800 b", warning="\x1b[31m\x00" + "x" * 100_000)
    assert run(config, results) == 0
    table = pd.read_csv(results / "tiny" / "rows.csv")
    assert set(table["note"]) == {"a \\ud800 b"}
    assert all(text.startswith("\\x1b[31m\\x00xx") for text in table["warning"])
    assert table["warning"].str.len().max() < 25_000
