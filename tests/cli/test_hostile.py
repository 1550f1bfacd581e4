"""What comes from outside and is not as it should be: one line, no traceback, no waiting."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid

ROOT = Path(__file__).parents[2]
GRID = {
    "datasets": ["digits"],
    "models": ["small_cnn:4"],
    "attacks": ["badnets"],
    "defenses": [],
    "recipe": {"epochs": 1, "lr": 0.05},
}
PLUGIN = '''
from dataclasses import dataclass
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Plugin(Defense):
    """Does something that nobody should do."""
    name = {name!r}

    def __call__(self, model, data):
        {body}
'''
LOUD = r"""yield model
        raise ValueError("\ud800 \u00e9 \x1b[31m" + "x" * 20_000_000)"""
NOTES = r"""note("\ud800 \u00e9")
        yield model"""
BREAKS = """for parameter in model.parameters():
            parameter.data.fill_(float("nan"))
        yield model"""

DATASET = """
from dataclasses import dataclass
import torch
from sau_bench.benchmark.data import Dataset

@dataclass(frozen=True, kw_only=True)
class Bad(Dataset):
    name = "Bad"
    num_classes, train_size, shape = 10, 1_000, (3, 32, 32)
    mean, std, flips = (0.0,) * 3, (1.0,) * 3, False
    def __call__(self, root):
        x = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
        {body}
"""
WITHOUT_REPORT = """
import sys
import sau_bench.benchmark.report.write
from sau_bench.benchmark.cli.main import main
sau_bench.benchmark.report.write.report = lambda *arguments: []  # figures take seconds
sys.exit(main())
"""


def write(folder, name="tiny", **changes):
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(GRID | changes))
    return file


def plugin(folder, name, body):
    file = folder / f"{name}.py"
    file.write_text(PLUGIN.format(name=name.capitalize(), body=body))
    return str(file)


def command(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_REPORT, *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        timeout=100,
    )


def test_an_error_with_any_character_can_be_shown_on_an_ascii_terminal(tmp_path):
    config = write(tmp_path)
    (victim,) = make_grid(read(config)).jobs()
    error = "E: \ud800 \u00e9 \x1b[31m" + "x" * 1_000_000
    Store(tmp_path / "cache").record_failure(victim.key, {"error": error, "kind": "error"})
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "200"}
    done = command("status", config, "--results", tmp_path, **ascii_only)
    assert done.returncode == 1 and not done.stderr and len(done.stdout) < 10_000
    assert b"\\ud800" in done.stdout and b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("return x, x", "a dataset returns its two splits: `__call__` returned a tuple"),
    ],
)
def test_a_broken_dataset_is_one_line_before_anything_runs(body, told, tmp_path, capsys):
    file = tmp_path / "bad.py"
    file.write_text(DATASET.format(body=body))
    config, results = write(tmp_path, datasets=[str(file)]), tmp_path / "results"
    assert cli.main(["run", str(config), "--results", str(results), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: dataset '{file}': {told}") and error.count("\n") == 1
    assert error.endswith(f"; see: sau-bench check {file}\n") and not results.exists()


def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", WITHOUT_REPORT, "list", "models"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=100
    )
    os.close(writer)
    assert (done.stderr, done.returncode) == (b"", 1)


@pytest.mark.slow
def test_a_grid_of_impolite_plugins_under_an_ascii_terminal(tmp_path):
    """Everything ends, is said, and starts again; sound cells are those of a grid without them."""
    results, sound = tmp_path / "results", plugin(tmp_path, "sound", "yield model")
    bad = [plugin(tmp_path, n, b) for n, b in (("loud", LOUD), ("notes", NOTES), ("lost", BREAKS))]
    config = write(tmp_path, defenses=[*bad, sound])
    run = ["run", config, "--results", results, "--device", "cpu"]
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    first = command(*run, **ascii_only, PYTHONCOERCECLOCALE="0")
    out, err = first.stdout.decode("ascii"), first.stderr.decode("ascii")
    assert first.returncode == 1 and "Traceback" not in out + err, err[-2000:]
    assert max(map(len, (out + err).splitlines())) < 2500
    assert "\x1b" not in out, out
    assert "\\ud800" in out and out.count("] done, diverged ") == 1
    last = err.splitlines()[-1]
    assert last.startswith("1 of 5 jobs have no result: 1 failed; the first, ") and "Loud" in last
    record = Path(last.rpartition("its traceback: ")[2])
    assert "ValueError" in record.read_text() and record.stat().st_size < 100_000
    again = command(*run, **ascii_only)
    assert again.returncode == 1 and b"Traceback" not in again.stderr
    assert b"nothing ran: 4 of 5 jobs are cached" in again.stdout
    done = command("status", config, "--results", results, **ascii_only)
    assert done.returncode == 1 and not done.stderr and b"\\ud800" in done.stdout
    rows = pd.read_csv(results / "tiny" / "rows.csv")
    assert rows["defense"].tolist() == ["No Defense", "Loud", "Notes", "Lost", "Sound"]
    assert rows["status"].tolist() == ["collapsed", "failed", "ok", "diverged", "ok"]
    assert rows["acc"][4] == rows["acc"][0] and rows["acc"].isna().tolist()[1]


def test_a_run_of_which_all_is_cached_says_that_nothing_ran(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sau_bench.benchmark.report.write.report", lambda *arguments: [])
    config = write(tmp_path)
    (victim,) = make_grid(read(config)).jobs()
    row = {"kind": "victim", "step": 0, "status": "ok", "acc": 0.9, "asr": 0.1, "seconds": 1.0}
    with Store(tmp_path / "cache").draft(victim.key) as draft:
        draft.write_json("job.json", victim.canonical())
        draft.write_json("rows.json", [row])
    run = ["run", str(config), "--results", str(tmp_path), "--device", "cpu"]
    assert cli.main(run) == 0
    assert "nothing ran: 1 of 1 jobs are cached\n" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--results", "--cache"])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_a_folder_is_one_line(tmp_path, capsys, flag, below):
    (tmp_path / "file").write_text("x")
    config, folder = write(tmp_path), tmp_path / "file" / below
    results = [] if flag == "--results" else ["--results", str(tmp_path / "results")]
    assert cli.main(["run", str(config), "--device", "cpu", *results, flag, str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{flag}: " in err and "is a file" in err
    assert (tmp_path / "file").read_text() == "x" and not (tmp_path / "results").exists()


@pytest.mark.parametrize("flag", ["--results", "--cache"])
def test_a_folder_that_cannot_be_written_is_one_line_before_anything_runs(tmp_path, capsys, flag):
    results = [] if flag == "--results" else ["--results", str(tmp_path / "results")]
    run = ["run", str(write(tmp_path)), "--device", "cpu", *results, flag, "/proc/no/such"]
    assert cli.main(run) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and "/proc" in err


@pytest.mark.tried("an absurd duration on the command line", 1)
@pytest.mark.parametrize("flag", ["--budget", "--time-limit"])
@pytest.mark.parametrize("text", ["99999999999999h", "9" * 5000 + "s", "0s", "-1s", "1e3s", ""])
def test_absurd_durations_are_refused(tmp_path, capsys, flag, text):
    run = ["run", str(write(tmp_path)), "--results", str(tmp_path / "results"), "--device", "cpu"]
    if text:
        assert cli.main([*run, f"{flag}={text}"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and flag in err and "at most 87600h" in err and len(err) < 200


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b'{"address": 3}', b'{"address": "here"}', b"[" * 9999]
)
def test_a_bad_scheduler_file_is_one_line(tmp_path, capsys, content):
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    file.write_bytes(content)
    run = ["run", str(write(tmp_path)), "--results", str(tmp_path / "results")]
    assert cli.main([*run, "--engine", "dask", "--scheduler", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "is no scheduler file" in err


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.tried("a pipe, socket or folder stands in the cache instead of a file", 1)
@pytest.mark.parametrize("verb", ["run", "status", "show", "cache"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (pipe, f"{'a' * 24}/rows.json"),
        (pipe, f"{'a' * 24}/job.json"),
        (pipe, f"drafts/{'a' * 24}.0123/log.jsonl"),
        (pipe, f"failures/{'a' * 24}.json"),
        (pipe, f"claims/{'a' * 24}"),
        (lambda path: path.mkdir(parents=True), f"claims/{'a' * 24}"),
        (lambda path: path.mkdir(parents=True), f"failures/{'a' * 24}.json"),
        (lambda path: path.symlink_to("nowhere"), f"{'a' * 24}.json"),
    ],
)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, capsys, verb, make, name):
    root = tmp_path / "cache"
    (root / "drafts").mkdir(parents=True)
    make(root / name)
    where = ["ls", "--cache", str(root)] if verb == "cache" else ["--results", str(tmp_path)]
    more = ["--device", "cpu", "--dry-run"] if verb == "run" else []
    status = cli.main([verb, *where[:1], *where[1:], *[str(write(tmp_path))], *more])
    err = capsys.readouterr().err
    if name.endswith(f"{'a' * 24}.json") and "/" not in name:  # nobody's
        assert "is no file" not in err
        return
    assert status == 2 and err == f"error: {root / name} is no file: remove it and run again\n"


CLAIM = "\nfilelock/2\npid=1\nhost=x\nmode=lease\ntoken=1\nduration={}\nstart=1\n"


@pytest.mark.tried("a claim is malformed", 1)
@pytest.mark.parametrize(
    "text", ["", "junk", "{}", "x" * 1_000_000, *map(CLAIM.format, ("30.0", "nan", "x", "-1"))]
)
def test_a_malformed_claim_harms_nobody(tmp_path, text):
    key = "a" * 24
    with Claims(tmp_path) as claims:
        (tmp_path / "claims" / key).write_text(text)
        assert claims.take("b" * 24) and not claims.take(key)
        assert claims.owner(key) and key in claims.live() and claims.announced() == {}
