"""The cache: a folder is complete or absent, whatever happens to the process that fills it."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from benchmark.store import Store, write_json, write_tensors

KEY, OTHER = "a" * 24, "b" * 24


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def publish(store, key=KEY, value=1):
    with store.draft(key) as folder:
        write_json(folder / "rows.json", [{"acc": value}])


def dead_process():
    """The number of a process that existed and is gone."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def leave_draft(store, key, pid):
    """A draft as the given process of this machine would have left it."""
    with pytest.raises(KeyboardInterrupt), store.draft(key) as folder:
        parts = folder.name.split(".")
        parts[-2:] = str(pid), "left"
        left = folder.with_name(".".join(parts))
        left.mkdir()
        (left / "log.jsonl").touch()
        raise KeyboardInterrupt
    return left


def test_a_job_is_absent_until_its_draft_closes(store):
    with store.draft(KEY) as folder:
        write_json(folder / "rows.json", [{"acc": 0.5}])
        assert KEY not in store
        assert store.running() == {KEY: folder}
    assert KEY in store and OTHER not in store
    assert store.rows(KEY) == [{"acc": 0.5}]
    assert store.running() == {} and not list(store.drafts.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_drops_the_draft(store, error):
    with pytest.raises(error), store.draft(KEY) as folder:
        write_json(folder / "rows.json", [])
        raise error
    assert KEY not in store and not list(store.drafts.iterdir())


def test_the_second_of_two_publishers_loses_quietly(store):
    with store.draft(KEY) as slow:
        write_json(slow / "rows.json", [{"acc": "second"}])
        publish(store, value="first")
    assert store.rows(KEY) == [{"acc": "first"}]
    assert not list(store.drafts.iterdir())
    publish(store, value="third")
    assert store.rows(KEY) == [{"acc": "first"}]


def test_a_draft_that_cannot_be_published_is_an_error(store):
    (store.root / KEY).write_text("a file where the folder belongs")
    with pytest.raises(OSError):
        publish(store)
    assert KEY not in store


def test_tensors_come_back_as_they_were(store):
    turned = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)
    saved = {"turned": turned, "bytes": torch.arange(5, dtype=torch.uint8), "one": torch.tensor(3)}
    with store.draft(KEY) as folder:
        write_tensors(folder / "tensors.safetensors", saved)
    found = store.tensors(KEY)
    assert set(found) == set(saved)
    for name, value in saved.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


def test_floats_in_rows_come_back_exactly(store):
    values = [1 / 3, 8999 / 9000, 5e-324, 0.1 + 0.2]
    with store.draft(KEY) as folder:
        write_json(folder / "rows.json", [{"acc": value} for value in values])
    assert [row["acc"] for row in store.rows(KEY)] == values


def test_sweep_removes_only_drafts_of_dead_processes(store):
    publish(store, OTHER)
    dead = leave_draft(store, KEY, dead_process())
    mine = leave_draft(store, "c" * 24, os.getpid())
    foreign = store.drafts / f"{'d' * 24}.some.host.org.{dead.name.split('.')[-2]}.12345678"
    foreign.mkdir()
    assert set(store.running()) == {"c" * 24, "d" * 24}
    store.sweep()
    assert set(store.drafts.iterdir()) == {mine, foreign}
    assert OTHER in store


def test_failures_are_kept_until_success_or_forgotten(store):
    assert store.failure(KEY) is None
    store.record_failure(KEY, {"error": "E: one", "traceback": ""})
    store.record_failure(KEY, {"error": "E: two", "traceback": "line\nline"})
    assert Store(store.root).failure(KEY) == {"error": "E: two", "traceback": "line\nline"}
    assert KEY not in store and store.failure(OTHER) is None
    store.forget_failure(KEY)
    assert store.failure(KEY) is None
    store.forget_failure(KEY)
    store.record_failure(KEY, {"error": "E: three", "traceback": ""})
    publish(store)
    assert store.failure(KEY) is None


def _hang_in_a_draft(root, reached):
    with Store(root).draft(KEY) as folder:
        write_json(folder / "rows.json", [{"acc": "torn"}])
        reached.set()
        signal.pause()


def test_a_killed_process_publishes_nothing_and_the_next_one_completes(store):
    context = multiprocessing.get_context("fork")
    reached = context.Event()
    process = context.Process(target=_hang_in_a_draft, args=(store.root, reached))
    process.start()
    assert reached.wait(20)
    assert list(store.running()) == [KEY]
    store.sweep()
    assert len(list(store.drafts.iterdir())) == 1  # it is alive
    process.kill()
    process.join()
    assert KEY not in store and store.running() == {}
    publish(store, value="whole")
    assert store.rows(KEY) == [{"acc": "whole"}]
    assert len(list(store.drafts.iterdir())) == 1
    store.sweep()
    assert not list(store.drafts.iterdir())
