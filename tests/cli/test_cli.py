"""The command line end to end on a few digits: results, repetition, kills, failures, bad input."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from clusters import alive, descendants, wait_for

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.show import examples_of, triggered_test
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import plugin_names
from sau_bench.benchmark.plugin import KINDS, text_digest
from sau_bench.benchmark.rows import NO_RESULT
from sau_bench.defenses.ft import FT

ROOT = Path(__file__).parents[2]
TINY = {
    "datasets": ["digits"],
    "models": ["small_cnn:4"],
    "attacks": ["badnets"],
    "defenses": [{"ft": {"recipe": {"epochs": 2}}}],
    "recipe": {"epochs": 1, "lr": 0.05},
}

WAITING = '''
import os
from dataclasses import dataclass
from sau_bench.benchmark.train import Recipe, fit
from sau_bench.defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Waiting(Defense):
    """Fine-tunes; after the first epoch it waits at the pipe that the environment names."""
    name = "Waiting"

    def __call__(self, model, data):
        for number, tuned in enumerate(fit(model, data, Recipe(epochs=2)), start=1):
            yield tuned
            pipe = os.environ.get("TEST_PIPE")
            if number == 1 and pipe:
                open(pipe).read()
'''

BROKEN_DEFENSE = '''
from dataclasses import dataclass
from sau_bench.defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Broken(Defense):
    """Raises after its first model."""
    name = "Broken"

    def __call__(self, model, data):
        yield model
        raise ArithmeticError("the second round is broken")
'''

BROKEN_ATTACK = '''
from dataclasses import dataclass
from sau_bench.attacks.base import DataPoisoning

@dataclass(frozen=True, kw_only=True)
class Worse(DataPoisoning):
    """Raises at once."""
    name = "Worse"

    def trigger(self, x):
        raise ValueError("the trigger is broken")
'''


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | changes))
    return file


def run(config, results, *more):
    return cli.main(["run", str(config), "--results", str(results), "--device", "cpu", *more])


def cells(results):
    """rows.csv without what differs from run to run."""
    rows = pd.read_csv(results / "tiny" / "rows.csv", dtype=str, keep_default_na=False)
    return rows.drop(columns=["seconds", "peak_mib"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete run, in this process but for its worker: (config, results)."""
    folder = tmp_path_factory.mktemp("finished")
    config = write(folder)
    assert run(config, folder / "results") == 0
    return config, folder / "results"


def test_a_run_writes_rows_tables_and_figures(finished):
    folder = finished[1] / "tiny"
    rows = pd.read_csv(folder / "rows.csv")
    assert rows["defense"].tolist() == ["No Defense", "FT", "FT"]
    assert rows["step"].tolist() == [0, 1, 2]
    assert rows["n_clean"].tolist() == [360] * 3 and rows["n_poisoned"].nunique() == 1
    assert rows["clean_ratio"].tolist()[1:] == [0.05] * 2
    assert rows["clean_ratio"].isna()[0]
    assert rows[["acc", "asr", "racc"]].stack().between(0, 1).all()
    for name in ("acc", "asr", "der"):
        for suffix in (".csv", ".md", ".tex"):
            assert (folder / "tables" / name).with_suffix(suffix).stat().st_size
    figures = list((folder / "figures").iterdir())
    assert {file.suffix for file in figures} == {".pdf", ".png"}
    assert all(file.stat().st_size for file in figures)
    assert "FT" in (folder / "report.md").read_text()


def test_show_puts_poisoned_images_beside_clean_ones(finished, tmp_path, capsys):
    config, results = finished
    assert cli.main(["show", str(config), "--results", str(results)]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in files] == ["attacks.pdf", "attacks.png"]
    assert all(file.stat().st_size for file in files)
    (victim,) = make_grid(read(config)).victims
    store = Store(results / "cache")
    (shown,) = examples_of([victim], ["BadNets"], store, tmp_path, count=2)
    assert shown.label == "BadNets" and shown.clean.shape == shown.poisoned.shape == (2, 32, 32, 3)
    assert (shown.poisoned[:, -3:, -3:] == 255).all()
    assert (shown.poisoned[:, :-3] == shown.clean[:, :-3]).all()
    assert (shown.poisoned[:, :, :-3] == shown.clean[:, :, :-3]).all()


def test_show_needs_no_victim_where_the_trigger_is_known_before_the_training(tmp_path, capsys):
    attacks = ["badnets", "blended", "sig", "wanet", "multi", "lf", "input_aware"]
    datasets = [{"synthetic": {"shape": [1, 28, 28]}}]
    config = write(tmp_path, attacks=attacks, datasets=datasets, recipe={"epochs": 30})
    results = tmp_path / "results"
    assert cli.main(["show", str(config), "--results", str(results)]) == 0
    out, error = capsys.readouterr()
    assert [Path(line).name for line in out.splitlines()] == ["attacks.pdf", "attacks.png"]
    assert not (results / "cache").exists()
    lf, generated = error.splitlines()
    assert "/ LF / 0: its asset makes its trigger; first: run it" in lf
    assert "/ Input-Aware / 0: the training makes its trigger" in generated
    victims = make_grid(read(config)).victims[:5]
    store, state = Store(results / "cache"), torch.get_rng_state()
    shown = examples_of(victims, attacks[:5], store, tmp_path, count=2)
    assert torch.equal(state, torch.get_rng_state())
    assert len(shown) == 6
    for examples in shown:  # grey
        assert examples.clean.shape == examples.poisoned.shape == (2, 28, 28, 1)
        assert (examples.clean != examples.poisoned).any()
    write(tmp_path, attacks=["lf"])
    assert cli.main(["show", str(config), "--results", str(tmp_path)]) == 2
    assert "no attack" in capsys.readouterr().err


def test_the_preview_of_a_warp_is_that_of_the_victim(tmp_path):
    config = write(tmp_path, attacks=["wanet"], seeds=[3])
    (victim,) = make_grid(read(config)).victims
    store, test = Store(tmp_path / "cache"), victim.dataset(tmp_path).test
    before, part = triggered_test(victim, store, test)
    run_job(victim, store, tmp_path, torch.device("cpu"))
    tensors = store.tensors(victim.key)
    assert torch.equal(before, tensors["test.x"]) and torch.equal(part, tensors["test.part"])


def test_the_cache_holds_json_and_safetensors_only(finished):
    cache = finished[1] / "cache"
    own = [cache / name for name in ("drafts", "failures", "claims", "checkpoints")]
    folders = {folder for folder in cache.iterdir() if folder.is_dir()} - set(own)
    jobs = make_grid(read(finished[0])).jobs()
    assert {folder.name for folder in folders} == {job.key for job in jobs}
    names = {file.name for folder in folders for file in folder.rglob("*")}
    files = {"job.json", "texts.json", "log.jsonl", "rows.json", "tensors.safetensors"}
    assert names == files | {"checksums.json"}
    assert not [file for folder in own for file in folder.glob("*")]


def test_a_second_run_is_all_cached_and_writes_the_same_bytes(finished, capsys):
    config, results = finished
    before = {file: file.read_bytes() for file in (results / "tiny").rglob("*") if file.is_file()}
    assert run(config, results, "--dry-run") == 0
    assert capsys.readouterr().out == "2 jobs: 0 to run, 2 cached\n"
    assert run(config, results) == 0
    assert "started" not in capsys.readouterr().out
    rows = results / "tiny" / "rows.csv"
    assert rows.read_bytes() == before[rows]
    tables = [file for file in before if file.suffix in (".csv", ".md", ".tex")]
    assert [file for file in tables if file.read_bytes() != before[file]] == []


def test_only_runs_a_part_and_keeps_the_rows_of_the_rest(finished, capsys):
    config, results = finished
    rows = (results / "tiny" / "rows.csv").read_bytes()
    assert run(config, results, "--only", "attack=badnets,defense=ft", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("2 jobs")
    assert run(config, results, "--only", "defense=FT") == 0
    assert (results / "tiny" / "rows.csv").read_bytes() == rows


def test_victims_alone_can_be_run(tmp_path, capsys):
    config = write(tmp_path, attacks=["badnets", "lf"], defenses=["ft", "sau"], clean_model=True)
    assert run(config, tmp_path / "results", "--victims", "--dry-run") == 0
    # Two victims; the pattern of LF and the clean model that it is made from.
    assert capsys.readouterr().out.startswith("4 jobs: 4 to run")
    assert run(config, tmp_path / "results", "--victims", "--only", "attack=badnets") == 0
    capsys.readouterr()
    every = cells(tmp_path / "results")
    assert every.loc[~every["status"].isin(NO_RESULT), "kind"].tolist() == ["victim"]
    assert run(config, tmp_path / "results", "--victims", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("4 jobs: 3 to run, 1 cached")


def test_one_cell_can_be_run_in_this_process(tmp_path, capsys):
    config, results = write(tmp_path), tmp_path / "results"
    cell = "attack=badnets,defense=ft"
    assert run(config, results, "--debug", cell, "--dry-run") == 0
    assert capsys.readouterr().out == "2 jobs: 2 to run, 0 cached\n"
    assert run(config, results, "--debug", cell) == 0
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if re.match("(victim|step [12]): ACC", line)]
    assert [line.partition(":")[0] for line in told] == ["victim", "step 1", "step 2"]
    assert "epoch 1/1 loss" in out and "epoch 2/2 loss" in out and "done: " in out
    _, defended = make_grid(read(config)).jobs()
    last = Store(results / "cache").rows(defended.key)[-1]
    assert told[-1].startswith(f"step 2: ACC {100 * last['acc']:.2f}, ASR {100 * last['asr']:.2f}")
    assert not (results / "tiny").exists()
    assert run(config, results, "--debug", cell) == 0
    assert capsys.readouterr().out == "2 jobs: 0 to run, 2 cached\n"
    assert run(config, results, "--debug", cell, "--force", "defense=ft") == 0
    assert capsys.readouterr().out.count(", on cpu") == 1
    assert run(config, results) == 0  # these are the jobs of a run
    assert "nothing ran: 2 of 2 jobs are cached" in capsys.readouterr().out


def test_a_debugged_cell_that_fails_shows_its_traceback_and_leaves_nothing(
    finished, tmp_path, capsys
):
    (tmp_path / "broken.py").write_text(BROKEN_DEFENSE)
    config = write(tmp_path, defenses=[str(tmp_path / "broken.py")])
    shutil.copytree(finished[1], tmp_path / "results")
    assert run(config, tmp_path / "results", "--debug", "defense=Broken") == 1
    out, error = capsys.readouterr()
    assert "step 1: ACC" in out
    assert "Traceback (most recent call last)" in error and 'broken.py", line 12' in error
    assert "the second round is broken" in error and "is not in the cache" in error
    store = Store(tmp_path / "results" / "cache")
    _, defended = make_grid(read(config)).jobs()
    assert defended.key not in store and store.failure(defended.key) is None
    assert not store.unfinished() and not list((store.root / "claims").iterdir())
    assert run(config, tmp_path / "results", "--debug", "attack=badnets") == 2
    error = capsys.readouterr().err
    assert "selects 2 cells, accepted: one; defense: No Defense, Broken" in error


def test_forced_cells_run_again_to_the_same_rows(finished, tmp_path, capsys):
    config, results = finished
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    assert run(config, tmp_path, "--force", "attack=badnets", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("2 jobs: 2 to run, 0 cached\n")
    assert run(config, tmp_path, "--force", "defense=ft") == 0
    out = capsys.readouterr().out
    assert "finished jobs discarded, to run again: 1" in out and out.count("started") == 1
    pd.testing.assert_frame_equal(cells(tmp_path), cells(results))


def test_a_budget_that_nothing_fits_leaves_all_out_and_says_so(tmp_path, capsys):
    config = write(tmp_path)
    assert run(config, tmp_path / "results", "--budget", "1s") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("the budget of 1s is used up; 2 jobs left out, about ")
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_a_fresh_cache_gives_the_same_rows(finished, tmp_path):
    config, results = finished
    assert run(config, tmp_path) == 0
    pd.testing.assert_frame_equal(cells(tmp_path), cells(results))


def test_another_cache_folder_can_be_named(finished, tmp_path, capsys):
    config, results = finished
    cache = str(results / "cache")
    assert run(config, tmp_path, "--cache", cache, "--dry-run") == 0
    assert "2 cached" in capsys.readouterr().out
    assert not tmp_path.joinpath("cache").exists()


def test_status_of_a_complete_grid(finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config, results = finished
    assert cli.main(["status", str(config), "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Digits, Small CNN (width 4), seed 0\n")
    assert out.count("│ done") == 2 and "missing" not in out


def test_report_needs_neither_torch_nor_the_cache(finished, tmp_path):
    config, results = finished
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "rows.csv").write_bytes((results / "tiny" / "rows.csv").read_bytes())
    assert without_torch("report", config, "--results", tmp_path)[0] == 0
    for table in (results / "tiny" / "tables").rglob("*.*"):
        again = folder / table.relative_to(results / "tiny")
        assert again.read_bytes() == table.read_bytes()


def test_a_run_of_which_all_is_cached_needs_no_torch_and_leaves_a_current_report(
    finished, tmp_path
):
    shutil.copytree(finished[1], tmp_path / "results")
    config = write(tmp_path)
    folder = tmp_path / "results" / "tiny"
    (folder / "config.txt").unlink()  # names the config of the first run
    command = ("run", config, "--results", tmp_path / "results")
    status, lines = without_torch(*command)
    assert status == 0 and lines[-1] == "nothing ran: 2 of 2 jobs are cached"
    written = (folder / "report.md").stat().st_mtime_ns
    assert "tables and figures beside it" in lines[-2]
    status, lines = without_torch(*command)
    assert (status, lines[-2]) == (0, f"{folder / 'report.md'} is up to date")
    assert (folder / "report.md").stat().st_mtime_ns == written
    write(tmp_path, effective_acc=0.5)  # changes tables and no row
    status, lines = without_torch(*command)
    assert status == 0 and "up to date" not in lines[-2]
    assert (folder / "report.md").stat().st_mtime_ns > written


def test_report_without_rows_says_what_to_do(tmp_path, capsys):
    assert cli.main(["report", str(write(tmp_path)), "--results", str(tmp_path / "none")]) == 2
    assert "run the grid first" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_dry_run_trains_nothing(tmp_path, capsys):
    assert run(write(tmp_path), tmp_path / "results", "--dry-run") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "2 jobs: 2 to run, 0 cached"
    assert (
        "device hours" in second
        and f"on 1 slot of {len(os.sched_getaffinity(0))}-thread " in second
    )
    files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert files == []


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_rows(tmp_path, monkeypatch, capfd):
    (tmp_path / "waiting.py").write_text(WAITING)
    config = write(tmp_path, defenses=[str(tmp_path / "waiting.py")])
    results, pipe = tmp_path / "killed", tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["run", str(config), "--results", str(results), "--device", "cpu"]
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "run_grid.py"), *arguments],
        env=os.environ | {"TEST_PIPE": str(pipe)},
        start_new_session=True,
    )
    try:
        with pipe.open("w"):  # opens when the defense has trained its first epoch
            workers = descendants(driver.pid)
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            # They see within half a second that it is gone; until then the defense may not go on.
            wait_for(lambda: not alive(workers))
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    victim, defended = make_grid(read(config)).jobs()
    store = Store(results / "cache")
    assert victim.key in store and defended.key not in store
    (left,) = store.drafts.iterdir()
    capfd.readouterr()
    assert run(config, results) == 0
    out = capfd.readouterr().out
    assert out.count("started") == 1 and "Waiting" in out
    assert left not in set(store.drafts.iterdir())
    assert run(config, tmp_path / "whole") == 0
    pd.testing.assert_frame_equal(cells(results), cells(tmp_path / "whole"))


def test_failures_are_recorded_and_cost_only_what_depends_on_them(
    finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    for name, source in (("broken", BROKEN_DEFENSE), ("worse", BROKEN_ATTACK)):
        (tmp_path / f"{name}.py").write_text(source)
    config = write(
        tmp_path,
        attacks=[str(tmp_path / "worse.py"), *TINY["attacks"]],
        defenses=[str(tmp_path / "broken.py"), *TINY["defenses"]],
    )
    results = tmp_path / "results"
    assert run(config, results) == 1
    out = capsys.readouterr().out
    assert "failed" in out and "blocked" in out and "Traceback" not in out
    # The sound cells are those of the grid without the broken plugins; the others say why.
    every = cells(results)
    odd = every["status"].isin(NO_RESULT)
    pd.testing.assert_frame_equal(every[~odd].reset_index(drop=True), cells(finished[1]))
    assert every[odd].groupby(["attack", "defense"])["status"].first().to_dict() == {
        ("Worse", "No Defense"): "failed",
        ("Worse", "Broken"): "blocked",
        ("Worse", "FT"): "blocked",
        ("BadNets", "Broken"): "failed",
    }
    assert "the trigger is broken" in every.loc[odd, "note"].iloc[0]
    store = Store(results / "cache")
    errors = {
        str(job).split(" / ", 2)[2]: store.failure(job.key)["error"]
        for job in make_grid(read(config)).jobs()
        if store.failure(job.key)
    }
    assert errors == {
        "Worse / 0": "ValueError: the trigger is broken",
        "BadNets / 0 / Broken": "ArithmeticError: the second round is broken",
    }
    assert cli.main(["status", str(config), "--results", str(results)]) == 1
    out = capsys.readouterr().out
    table, why = out.split("the trigger is broken")[0], out
    assert table.count("blocked") == 2 and table.count("│ done") == 2
    assert "the trigger is broken" in why and "the second round is broken" in why
    # Recorded failures are not tried again, and the exit status still says so.
    assert run(config, results) == 1
    assert "started" not in capsys.readouterr().out


MISSING = "sau-bench fetch cifar10"


@pytest.mark.parametrize(
    ("changes", "more", "told"),
    [
        ({"defences": []}, [], "did you mean 'defenses'"),
        ({"attacks": 3}, [], "list"),
        ({"attacks": []}, [], "attacks is empty"),
        ({"attacks": ["badnet"]}, [], "did you mean 'badnets'"),
        ({"defenses": ["sua"]}, [], "did you mean 'sau'"),
        ({"models": ["smal_cnn"]}, [], "did you mean 'small_cnn'"),
        ({"datasets": ["digit"]}, [], "did you mean 'digits'"),
        ({"defenses": ["no/such.py"]}, [], "no plugin file"),
        ({"defenses": [{"ft": {"recipes": {}}}]}, [], "did you mean 'recipe'"),
        ({"attacks": [{"badnets": {"ratio": 1.5}}]}, [], "ratio is 1.5"),
        ({"attacks": [{"badnets": {"ratio": "x"}}]}, [], "'x'"),
        ({"attacks": [{"badnets": {"target": 10}}]}, [], "target is 10"),
        ({"recipe": {"epochs": 0}}, [], "epochs is 0"),
        ({"clean_ratio": 2}, [], "clean_ratio is 2"),
        ({"score_every": 0}, [], "score_every is 0"),
        ({"select": {"FT": "best"}}, [], "'best'"),
        ({"datasets": ["cifar10"]}, ["--data", "nowhere"], MISSING),
        ({}, ["--only", "attak=badnets"], "did you mean 'attack'"),
        ({}, ["--only", "attack=badnet"], "did you mean 'badnets'"),
        ({}, ["--device", "cuda:99"], "accepted: auto, cpu, cuda"),
        ({}, ["--device", "99"], "accepted: auto, cpu, cuda"),
        ({}, ["--per-device", "0"], "at least 1"),
        ({}, ["--budget", "2"], "--budget is '2', accepted: such as 90s"),
        ({}, ["--time-limit", "soon"], "--time-limit is 'soon', accepted: such as 90s"),
        ({}, ["--force", "attak=badnets"], "--force: 'attak=badnets' is not AXIS=NAME"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_created(tmp_path, capsys, changes, more, told):
    config, results = write(tmp_path, **changes), tmp_path / "results"
    more = ["--device", "cpu", *more]
    assert cli.main(["run", str(config), "--results", str(results), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and told in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize("verb", ["run", "status", "report"])
def test_an_unreadable_config_is_one_line_and_nothing_is_created(tmp_path, capsys, verb):
    (tmp_path / "bad.yaml").write_text("attacks: [badnets\n- x: {")
    for name in ("bad.yaml", "missing.yaml"):
        results = tmp_path / "results"
        assert cli.main([verb, str(tmp_path / name), "--results", str(results)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "bad.yaml" in error
        assert not results.exists()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["list", "atacks"], "attacks"),
        (["run", "quickstart", "--onyl", "x"], "--onyl"),
        (["run", "--per-device", "two"], "two"),
        (["fetch"], "dataset"),
        (["fetch", "digits"], "embedded"),
        (["fetch", "cifar11"], "did you mean 'cifar10'"),
    ],
)
def test_bad_arguments_end_with_status_2_and_say_what_is_accepted(argv, told, capsys):
    try:
        status = cli.main(argv)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and told in error.splitlines()[-1]


def heads(out):
    """The first lines of the entries of `list`."""
    return [line for line in out.splitlines() if line and not line.startswith(" ")]


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_every_plugin_with_paper_text_and_fields(kind, capsys):
    assert cli.main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in heads(out)] == plugin_names(kind)
    assert max(map(len, out.splitlines())) <= 80
    text = re.sub(r"\n +", " ", out)
    for head in {
        "attacks": ["badnets: BadNets, arXiv 1708.06733 A 3 x 3 patch in the bottom right", "SAU"],
        "defenses": ["ft: FT, arXiv 1805.12185 All parameters", "ep: EP, Zheng, Tang, Li & Liu"],
        "datasets": ["digits: Digits, Alpaydin & Kaynak", "num_classes=10, shape=[3, 32, 32]"],
        "models": ["small_cnn: Small CNN Three 3x3 convolutions", "width=16"],
    }[kind]:
        assert head in text
    if kind == "attacks":
        assert "ratio=0.1, labels=all2one, target=0, pattern=square" in text
        assert "first=Blended, second=BadNets{target: 1}" in text
    if kind == "defenses":
        assert "recipe={batch_size: 256}" in text and "betas=null" in text


def test_list_without_a_kind_lists_all(capsys):
    assert cli.main(["list"]) == 0
    every = heads(capsys.readouterr().out)
    expected = []
    for kind in ("attacks", "defenses", "datasets", "models"):
        assert cli.main(["list", kind[:-1]]) == 0
        expected += [kind, *heads(capsys.readouterr().out)]
    assert every == expected


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        ([], "configs/quickstart.yaml"),
        (["run"], "configs/quickstart.yaml"),
        (["--dry-run"], "configs/quickstart.yaml"),
        (["run", "my.yaml", "--dry-run"], "my.yaml"),
        (["run", "my.yaml"], "my.yaml"),
    ],
)
def test_the_default_is_to_run_the_quickstart(argv, config, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "run", lambda arguments: seen.append(arguments) or 0)
    assert cli.main(argv) == 0
    (arguments,) = seen
    assert arguments.config == Path(config) and (ROOT / "configs/quickstart.yaml").is_file()
    assert arguments.dry_run == ("--dry-run" in argv)
    assert (arguments.only, arguments.device, arguments.per_device) == ([], "auto", 1)


TORCHLESS = (
    "import sys; from sau_bench.benchmark.cli.main import main; code = main(sys.argv[1:]);"
    "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision', 'timm')]);"
    "sys.exit(code)"
)


def without_torch(*argv):
    """(exit status, lines) of a command in a process of its own that must not import torch."""
    done = subprocess.run(
        [sys.executable, "-c", TORCHLESS, *map(str, argv)], capture_output=True, text=True, cwd=ROOT
    )
    *lines, imported = done.stdout.splitlines()
    assert imported == "[]", done.stderr
    return done.returncode, lines


def test_status_needs_neither_torch_nor_data_and_knows_the_keys(finished, tmp_path, monkeypatch):
    config, results = finished
    status, lines = without_torch("status", config, "--results", results)
    assert status == 0 and sum(line.count("│ done") for line in lines) == 2
    every = {"attacks": plugin_names("attacks"), "defenses": plugin_names("defenses")}
    every |= {"datasets": ["cifar10", "gtsrb"], "models": ["preact_resnet18", "timm:resnet18"]}
    for name in ("multi", "imported", "folder"):  # a label shared with its parts; need files
        every["attacks"].remove(name)
    every["recipe"] = {"epochs": 30}  # Input-Aware takes 25 of them for its masks
    status, lines = without_torch("status", write(tmp_path, **every), "--results", tmp_path)
    assert status == 1 and sum(line.count("missing") for line in lines) > 100
    assert not (tmp_path / "cache").exists()


def test_list_needs_no_torch_and_prints_what_it_prints_with_it(capsys):
    assert cli.main(["list"]) == 0
    assert without_torch("list") == (0, capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("verb", [*cli.VERBS, "cache ls", "cache gc", "cache verify"])
def test_the_help_of_a_verb_has_an_example_that_its_parser_takes(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*verb.split(), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    example = text.partition("example: sau-bench ")[2]
    assert end.value.code == 0 and example.startswith(verb)
    words = shlex.split(example)
    assert cli.make_parser().parse_args(words).verb
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))


def test_a_dry_run_needs_no_data(tmp_path, capsys):
    config = write(tmp_path, datasets=["cifar10"])
    assert run(config, tmp_path / "results", "--dry-run", "--data", str(tmp_path / "no")) == 0
    assert capsys.readouterr().out.startswith("2 jobs: 2 to run")


def test_a_label_with_commas_can_be_run_and_forced(tmp_path, capsys):
    recipes = [{"epochs": 2, "lr": 0.5}, {"epochs": 1, "lr": 0.25}]
    config = write(tmp_path, defenses=[{"ft": {"recipe": recipe}} for recipe in recipes])
    name = "defense=FT (epochs=1, lr=0.25)"
    assert run(config, tmp_path, "--only", name, "--only", "attack=badnets") == 0
    assert "FT" in capsys.readouterr().out
    assert run(config, tmp_path, "--dry-run", "--force", name) == 0
    assert capsys.readouterr().out.startswith("3 jobs: 2 to run, 1 cached")


def test_a_plugin_that_was_edited_is_named_and_force_runs_its_jobs_again(
    finished, tmp_path, capsys
):
    """The key of a built-in plugin's job does not hold its text: who edits one is reminded."""
    config, results = finished
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    _, defended = make_grid(read(config)).jobs()
    store = Store(tmp_path / "cache")
    assert store.texts(defended.key) == {"defense": text_digest(FT)}
    rows = store.rows(defended.key)
    store.remove(defended.key)
    with store.draft(defended.key) as draft:  # as an earlier text of FT has left it
        draft.write_json("job.json", defended.canonical())
        draft.write_json("texts.json", {"defense": "0" * 64})
        draft.write_json("rows.json", rows)
    for verb, *more in (("run", "--device", "cpu"), ("status",)):
        assert cli.main([verb, str(config), "--results", str(tmp_path), *more]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "defense 'ft' has changed since" in out and "--force defense=ft" in out
        assert "started" not in out
    assert run(config, tmp_path, "--force", "defense=ft") == 0
    capsys.readouterr()
    assert cli.main(["status", str(config), "--results", str(tmp_path)]) == 0
    assert "changed since" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(cells(tmp_path), cells(results))


def test_the_data_folder_comes_from_flag_environment_or_config(tmp_path, monkeypatch, capsys):
    config = tmp_path / "my.yaml"
    lines = "datasets: [cifar10]", "models: [small_cnn]", "attacks: [badnets]", "data: in-config"
    config.write_text("\n".join(lines))

    def missing(*argv):
        assert cli.main(["run", str(config), *argv]) == 2
        return re.search("missing or damaged in '(.*?)'", capsys.readouterr().err)[1]

    monkeypatch.delenv("SAU_BENCH_DATA", raising=False)
    assert missing() == "in-config"
    monkeypatch.setenv("SAU_BENCH_DATA", "in-environment")
    assert missing() == "in-environment"
    assert missing("--data", "in-flag") == "in-flag"


@pytest.fixture
def handlers():
    """An interrupted process ignores further signals; this one goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, handlers):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main(["run"]) == 130
    assert "goes on where this one stopped" in capsys.readouterr().err
