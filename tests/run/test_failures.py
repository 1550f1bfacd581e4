"""What a failure is, by types and numbers of errors, and that its text harms nobody."""

import errno
import json
import os
import pickle

import pytest
from fakes import Fake, Threads, act, attempts, key, trace
from hypothesis import given
from hypothesis import strategies as st

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError, printable
from sau_bench.benchmark.run.failures import LINE, TEXT, kind_of, recorded, run_or_report

SHORT = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 1125899906842624 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture
def threads():
    pool = Threads(2)
    yield pool
    pool.close()


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(SHORT), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (OutOfMemoryError("anything"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (ValueError("CUDA out of memory"), "error"),
        (RuntimeError("see: DefaultCPUAllocator: can't allocate memory"), "error"),
        (OSError(errno.ENOSPC, "x"), "full disk"),
        (OSError(errno.EDQUOT, "x"), "full disk"),
        (RuntimeError("No space left on device"), "error"),
        (OSError("No space left on device"), "error"),
        (ValueError("Disk quota exceeded"), "error"),
        (InputError("remove this folder and run again"), "bad input"),
    ],
)
def test_kinds_are_told_by_type_and_number(error, kind):
    assert kind_of(error) == kind
    wrapped = RuntimeError("a plugin's own words")
    wrapped.__cause__ = error
    assert kind_of(wrapped) == kind


def test_torch_is_short_of_memory_in_these_words():
    import torch

    with pytest.raises(RuntimeError) as short:
        torch.empty(1 << 48)
    assert kind_of(short.value) == "out of memory"


@given(st.text(st.characters(exclude_categories=()), max_size=50), st.integers(1, 40))
def test_printable_text_can_be_encoded_and_is_short(text, limit):
    clean = printable(text, limit)
    clean.encode()
    assert not any(ord(c) < 32 and c not in "\t\n" for c in clean)
    assert len(clean) <= 10 * (limit + 40)
    if text.isascii() and text.isprintable() and len(text) <= limit:
        assert clean == text


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("\ud800 \x1b[31m \x00"),
        ValueError("x" * 20_000_000),
        Unreadable(),
        KeyboardInterrupt(),
        GeneratorExit(),
        SystemExit(0),
    ],
    ids=["surrogate", "long", "unreadable", "interrupt", "generator", "exit"],
)
def test_whatever_a_job_raises_is_a_short_printable_record(error):
    record = run_or_report(pickle.dumps((raises, error)))
    json.dumps(record, ensure_ascii=False).encode()
    assert record["kind"] == "error" and type(error).__name__ in record["error"]
    assert "\n" not in record["error"] and "\x1b" not in record["error"]
    assert len(record["error"]) <= LINE + 60 and len(record["traceback"]) <= TEXT + 60


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", '{"error": 3}', '{"kind": []}', "[" * 100_000, "\ud800", "{", b"\xff"],
)
def test_a_malformed_record_harms_nobody(tmp_path, threads, text):
    job, store = Fake("raise"), Store(tmp_path / "cache")
    store.failures.mkdir(parents=True)
    content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    (store.failures / f"{key(job)}.json").write_bytes(content)
    states, details = trace([job, Fake("good")], tmp_path, threads)
    assert states["raise"][-1] == "failed" and states["good"] == ["started", "done"]
    assert all(isinstance(detail, str) for detail in details.values())


def test_a_pipe_in_place_of_a_record_is_not_waited_for(tmp_path):
    store = Store(tmp_path)
    store.failures.mkdir()
    os.mkfifo(store.failures / "a.json")
    assert recorded(store, "a") is None


def test_a_recorded_error_is_cut_and_cleaned_also_when_it_is_read(tmp_path):
    store = Store(tmp_path)
    store.record_failure("a", {"error": "\ud800" * 10_000, "kind": "error", "traceback": "\ud800"})
    record = recorded(store, "a")
    assert len(record["error"]) < 7 * LINE and record["traceback"] == "\\ud800"
    json.dumps(record, ensure_ascii=False).encode()


def test_a_damaged_need_is_not_the_dependants_failure(tmp_path, threads):
    """Removing the folder, as the error says, and running again is all it takes."""
    need = Fake("need")
    jobs = [need, Fake("dependant", need)]
    trace([need], tmp_path, threads)
    store = Store(tmp_path / "cache")
    (store.root / key(need) / "rows.json").write_text("[{}]")
    states, details = trace(jobs, tmp_path, threads)
    assert states == {"need": ["cached"], "dependant": ["started", "failed"]}
    assert str(store.root / key(need)) in details["dependant"]
    assert "remove this folder and run again" in details["dependant"]
    assert recorded(store, key(jobs[1]))["kind"] == "bad input"
    store.remove(key(need))
    states, _ = trace(jobs, tmp_path, threads)
    assert states == {"need": ["started", "done"], "dependant": ["started", "done"]}
    assert recorded(store, key(jobs[1])) is None and attempts(tmp_path, "dependant") == 2


def remove_need(job, root):
    if attempts(root, "need") == 1:
        Store(root / "cache").remove(key(job.need))
    return act(job, root)


def test_a_need_that_is_removed_during_the_run_is_not_the_dependants_failure(tmp_path, threads):
    need = Fake("need")
    job = Fake("dependant", need)
    trace([need], tmp_path, threads)
    states, details = trace([job], tmp_path, threads, work=remove_need)
    assert states == {"need": ["cached"], "dependant": ["started", "failed"]}
    assert "has been removed" in details["dependant"]
    states, _ = trace([job], tmp_path, threads)
    assert states == {"need": ["started", "done"], "dependant": ["started", "done"]}
