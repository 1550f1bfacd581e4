"""What `status` says about each cell, and how it reads the log of a running job."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from fakes import Threads
from rich.console import Console

from sau_bench.benchmark.cache.claims import LEASE, Claims
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.matrix import cut
from sau_bench.benchmark.cli.progress import Progress, last_epoch
from sau_bench.benchmark.cli.status import cells_of, details, matrices, summary, view_of
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import filtered, make_grid
from sau_bench.benchmark.grid.plan import make_plan
from sau_bench.benchmark.jobs.job import AssetJob
from sau_bench.benchmark.run import driver
from sau_bench.benchmark.run.durations import Durations

CONFIG = {
    "datasets": ["digits"],
    "models": ["small_cnn"],
    "attacks": ["badnets", "lf"],
    "defenses": ["ft", "sau"],
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "grid.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return make_grid(read(file))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def publish(store, *jobs):
    for job in jobs:
        with store.draft(job.key) as draft:
            draft.write_json("job.json", job.canonical())
            draft.write_json("rows.json", [])


def cell(grid, attack, defense, seed=0):
    """The job of a cell by the labels of its place."""
    for victim, defended in grid.cells():
        place = grid.place(victim, defended)
        if (place["attack"], place["defense"], place["seed"]) == (attack, defense, seed):
            return defended or victim
    raise KeyError(attack, defense, seed)


def look(grid, store):
    return view_of(make_plan(grid.jobs()), store, Claims(store.root))


def status(grid, store):
    """(states by attack for seed 0, lines of details, whether all cells are done)."""
    cells, view = cells_of(grid, Path()), look(grid, store)
    first, second = matrices(cells, view)
    assert (first.title, second.title) == tuple(f"Digits, Small CNN, seed {s}" for s in (0, 1))
    complete = all(view.states[cell.key][0] == "done" for cell in cells)
    states = {attack: tuple(row.values()) for attack, row in first.states.items()}
    return states, [text.replace("\n    ", ": ") for text in details(cells, view)], complete


@pytest.fixture
def claims(store):
    """Another driver on the same cache."""
    with Claims(store.root) as claims:
        yield claims


def test_nothing_done_and_all_done(grid, store):
    states, details, complete = status(grid, store)
    assert states == {"BadNets": ("missing",) * 3, "LF": ("missing",) * 3}
    assert details == [] and not complete
    publish(store, *grid.jobs()[:-1])
    assert not status(grid, store)[2]
    publish(store, grid.jobs()[-1])
    states, details, complete = status(grid, store)
    assert states == {"BadNets": ("done",) * 3, "LF": ("done",) * 3}
    assert details == [] and complete


def test_a_running_job_says_where_since_when_and_how_far(grid, store, claims):
    job, other = cell(grid, "BadNets", "No Defense"), cell(grid, "LF", "No Defense")
    assert claims.take(job.key) and claims.take(other.key)
    with store.draft(job.key) as draft, store.draft(other.key):
        (draft.folder / "job.json").write_text("{}")
        os.utime(draft.folder / "job.json", (time.time() - 3720,) * 2)
        line = '{"seconds": 9, "epoch": 3, "epochs": 8, "loss": 1}\n'
        (draft.folder / "log.jsonl").write_text(line)
        states, details, complete = status(grid, store)
    assert states["BadNets"] == ("running 3/8", "missing", "missing")
    assert states["LF"] == ("running", "missing", "missing")
    (line,) = (line for line in details if "BadNets" in line)
    assert "Digits / Small CNN / BadNets / No Defense / 0" in line and "running 3/8" in line
    assert f"{claims.owner(job.key)}, for 1 h 2 min, epoch 3/8" in line
    assert any("LF" in line and "no epoch yet" in line for line in details)
    assert not complete


def test_a_job_runs_while_its_claim_is_alive_whatever_has_its_number(grid, store, claims):
    """A draft that nobody has claimed is what a killed process left, also in a container."""
    job = cell(grid, "BadNets", "FT")
    with pytest.raises(KeyboardInterrupt), store.draft(job.key):
        assert status(grid, store)[0]["BadNets"][1] == "missing"
        assert claims.take(job.key)
        assert status(grid, store)[0]["BadNets"][1] == "running"
        raise KeyboardInterrupt
    assert status(grid, store)[0]["BadNets"][1] == "running"
    claims.release(job.key)
    assert status(grid, store)[0]["BadNets"][1] == "missing"


@pytest.mark.parametrize(("age", "state"), [(LEASE / 2, "running 2/8"), (2 * LEASE, "stale")])
def test_a_job_of_another_machine_runs_while_its_claim_is_touched(grid, store, age, state):
    job = cell(grid, "BadNets", "FT")
    owner = Claims(store.root)
    with owner, store.draft(job.key) as draft:
        assert owner.take(job.key)
        file = store.root / "claims" / job.key
        here = f"host={owner._leases[job.key].owner.hostname}"
        file.write_text(file.read_text().replace(here, "host=far.away.org"))
        os.utime(file, (time.time() - age,) * 2)
        (draft.folder / "log.jsonl").write_text('{"seconds": 9, "epoch": 2, "epochs": 8}\n')
        states, details, _ = status(grid, store)
    assert states["BadNets"] == ("missing", state, "missing")
    (line,) = (line for line in details if "BadNets" in line)
    assert f"process {os.getpid()} on far.away.org" in line
    assert ("silent for" in line) == (state == "stale")


def test_an_old_failure_of_a_job_that_is_done_blocks_nothing(grid, store):
    victim = cell(grid, "LF", "No Defense")
    publish(store, victim)
    store.record_failure(victim.key, {"error": "E: in a run at the same time"})
    assert status(grid, store)[0]["LF"] == ("done", "missing", "missing")


def test_a_failed_job_says_why_and_blocks_what_needs_it(grid, store):
    publish(store, cell(grid, "LF", "No Defense"))
    store.record_failure(cell(grid, "LF", "FT").key, {"error": "E: [/red] 1", "kind": "error"})
    store.record_failure(
        cell(grid, "BadNets", "No Defense").key, {"error": "E: 2", "kind": "out of memory"}
    )
    publish(store, cell(grid, "BadNets", "FT"))  # of an earlier victim with the same key
    states, details, complete = status(grid, store)
    assert states == {"LF": ("done", "failed", "missing"), "BadNets": ("failed", "done", "blocked")}
    place = "Digits / Small CNN"
    assert set(details) == {
        f"failed: {place} / LF / FT / 0: E: [/red] 1",
        f"failed: {place} / BadNets / No Defense / 0: out of memory: E: 2",
        f"blocked: {place} / BadNets / SAU / 0: by {place} / BadNets / 0: out of memory: E: 2",
    }
    assert not complete


def test_a_failed_asset_is_named_and_blocks_its_victims_and_their_defenses(grid, store, claims):
    asset = next(job for job in grid.jobs() if isinstance(job, AssetJob) and job.seed == 0)
    store.record_failure(asset.key, {"error": "E: no pattern"})
    states, details, _ = status(grid, store)
    assert states == {"LF": ("blocked",) * 3, "BadNets": ("missing",) * 3}
    text = "\n".join(details)
    # Three cells of the attack, and the pattern that is made from the clean model.
    assert text.count(f"by {asset}: E: no pattern") == 4
    assert f"failed: {asset}: E: no pattern" in details
    store.forget_failure(asset.key)
    assert claims.take(asset.key)
    states, details, _ = status(grid, store)
    assert states["LF"] == ("missing",) * 3
    assert any(line.startswith(f"running: {asset}: ") for line in details)


def finish(store, job, seconds):
    with store.draft(job.key) as draft:
        draft.write_json("job.json", job.canonical())
        row = {"seconds": seconds, "device": "1-thread Abacus", "kind": "victim"}
        draft.write_json("rows.json", [row])


def test_the_last_line_counts_jobs_and_knows_how_long_the_rest_takes(grid, store, claims):
    (part,) = filtered([grid], ["attack=badnets"])
    assert summary(look(part, store)) == "0 of 6 jobs done, 6 missing"
    for defense, took in (("No Defense", 100), ("FT", 10), ("SAU", 40)):
        finish(store, cell(grid, "BadNets", defense), took)
    # The other seed takes as long.
    assert summary(look(part, store)) == "3 of 6 jobs done, 3 missing; about 2 min 30 s left"
    (other,) = filtered([grid], ["attack=lf"])  # of which most was never run
    assert look(other, store).seconds_left() is None
    victim = cell(grid, "BadNets", "No Defense", seed=1)
    assert claims.take(victim.key)
    with store.draft(victim.key) as draft:
        draft.write_json("job.json", victim.canonical())
        os.utime(draft.folder / "job.json", (time.time() - 30,) * 2)
        text = summary(look(part, store))
        assert text == "3 of 6 jobs done, 1 running, 2 missing; about 2 min 0 s left"
        draft.write_json("rows.json", [{"seconds": 100, "device": "1-thread Abacus"}])
    claims.release(victim.key)
    store.record_failure(cell(grid, "BadNets", "FT", seed=1).key, {"error": "E: 1"})
    text = "4 of 6 jobs done, 1 failed, 1 missing; about 40 s left"
    assert summary(look(part, store)) == text
    publish(store, cell(grid, "BadNets", "FT", seed=1), cell(grid, "BadNets", "SAU", seed=1))
    assert summary(look(part, store)) == "6 of 6 jobs done"


def test_a_wide_table_is_cut_into_parts_that_fit(tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    recipes = [{"epochs": n, "lr": 0.001 * n} for n in range(1, 21)]
    defenses = [{"ft": {"recipe": recipe}} for recipe in recipes]
    file.write_text(yaml.safe_dump(CONFIG | {"defenses": defenses, "seeds": [0]}))
    grid, store = make_grid(read(file)), Store(tmp_path / "cache")
    (matrix,) = matrices(cells_of(grid, file), look(grid, store))
    for width in (80, 200):
        tables = matrix.tables(width)
        for title, table in tables:
            Console(width=width).print(title, table, sep="\n")
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        assert out.count("missing") == 42 and "…" not in out
        columns = [column.header for _, table in tables for column in table.columns[1:]]
        assert columns == list(matrix.states["BadNets"]) and "FT (epochs=20, lr=0.02)" in columns
    assert len(matrix.tables(80)) > len(matrix.tables(200)) > 1
    assert len(matrix.tables(1000)) == 1


def test_a_long_word_of_a_label_is_cut():
    assert cut("SAU (epochs=12)") == "SAU (epochs=12)"
    assert cut(f"x {'y' * 30}") == f"x {'y' * 21}..."
    assert cut("[red]") == "\\[red]"


def log(folder, *entries):
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def test_the_last_epoch_of_a_log(tmp_path):
    assert last_epoch(None) == last_epoch(tmp_path) == (0, None, "")
    epochs = [{"seconds": 60.0 * n, "epoch": n, "epochs": 9, "loss": 1 / n} for n in (1, 2)]
    file = log(tmp_path, *epochs, {"seconds": 130.0, "message": "pruned"})
    assert last_epoch(tmp_path) == (2, 9, "loss 0.500, 2 min 0 s")
    with file.open("a") as stream:
        stream.write('{"seconds": 180, "epo')  # being written
    assert last_epoch(tmp_path)[0] == 2
    log(tmp_path, {"seconds": 5, "epoch": 4, "epochs": 4})
    assert last_epoch(tmp_path) == (4, 4, "5 s")


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "TAIL", 200)
    epoch = {"seconds": 5, "epoch": 4, "epochs": 4}
    note = {"seconds": 6, "message": "x" * 60}
    log(tmp_path, epoch, *[note] * 3)
    assert last_epoch(tmp_path) == (0, None, "")
    log(tmp_path, *[note] * 99, epoch, note)
    assert last_epoch(tmp_path) == (4, 4, "5 s")


@pytest.mark.parametrize("slots", [0, 1])
def test_a_run_without_any_worker_says_that_it_waits(tmp_path, slots, capsys):
    pool = Threads(slots)
    with Progress({}, Store(tmp_path), pool, Durations()):
        pass
    pool.close()
    assert ("no worker is there yet: waiting" in capsys.readouterr().out) == (slots == 0)
