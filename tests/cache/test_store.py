"""The cache: a folder is complete or absent, whatever happens to the process that fills it."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from sau_bench.benchmark.cache import store as module
from sau_bench.benchmark.cache.checksums import CHECKSUMS, changes, checksum, faults
from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import sweep
from sau_bench.benchmark.cache.store import Draft, Store
from sau_bench.benchmark.canonical import job_key
from sau_bench.benchmark.errors import InputError

JOBS = {job_key(job): job for job in ({"job": "one"}, {"job": "other"})}
KEY, OTHER = JOBS


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def publish(store, key=KEY, value=1):
    with store.draft(key) as draft:
        draft.write_json("job.json", JOBS[key])
        draft.write_json("rows.json", [{"acc": value}])


def leave_draft(store, key):
    """A draft as a process that was killed leaves it."""
    folder = store.drafts / f"{key}.0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").touch()
    return folder


def unfinished(store):
    return [draft.key for draft in store.unfinished()]


def test_a_job_is_absent_until_its_draft_closes(store):
    with store.draft(KEY) as draft:
        draft.write_json("job.json", JOBS[KEY])
        draft.write_json("rows.json", [{"acc": 0.5}])
        assert KEY not in store
        assert store.unfinished() == [draft]
    assert KEY in store and OTHER not in store
    assert store.rows(KEY) == [{"acc": 0.5}]
    assert store.unfinished() == [] and not list(store.drafts.iterdir())


def test_reading_makes_nothing(store):
    assert store.keys() == [] and store.unfinished() == [] and KEY not in store
    assert store.failure(KEY) is None
    store.forget_failure(KEY)
    assert not store.root.exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_drops_the_draft(store, error):
    with pytest.raises(error), store.draft(KEY) as draft:
        draft.write_json("rows.json", [])
        raise error
    assert KEY not in store and not list(store.drafts.iterdir())


def test_the_second_of_two_publishers_loses_quietly(store):
    with store.draft(KEY) as slow:
        slow.write_json("job.json", JOBS[KEY])
        slow.write_json("rows.json", [{"acc": "second"}])
        publish(store, value="first")
    assert store.rows(KEY) == [{"acc": "first"}]
    assert not list(store.drafts.iterdir())
    publish(store, value="third")
    assert store.rows(KEY) == [{"acc": "first"}]


def test_a_draft_that_cannot_be_published_is_an_error(store):
    store.root.mkdir()
    (store.root / KEY).write_text("a file where the folder belongs")
    with pytest.raises(OSError):
        publish(store)
    assert KEY not in store


def test_tensors_come_back_as_they_were(store):
    turned = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)
    saved = {"turned": turned, "bytes": torch.arange(5, dtype=torch.uint8), "one": torch.tensor(3)}
    with store.draft(KEY) as draft:
        draft.write_json("job.json", JOBS[KEY])
        draft.write_tensors("tensors.safetensors", saved)
    found = store.tensors(KEY)
    assert set(found) == set(saved)
    for name, value in saved.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


def test_floats_in_rows_come_back_exactly(store):
    values = [1 / 3, 8999 / 9000, 5e-324, 0.1 + 0.2]
    with store.draft(KEY) as draft:
        draft.write_json("job.json", JOBS[KEY])
        draft.write_json("rows.json", [{"acc": value} for value in values])
    assert [row["acc"] for row in store.rows(KEY)] == values


def test_sweep_removes_only_drafts_that_nobody_has_claimed(store):
    publish(store, OTHER)
    leave_draft(store, KEY)
    claimed = leave_draft(store, "c" * 24)
    owner = Claims(store.root)
    with Claims(store.root) as claims:
        assert owner.take("c" * 24)
        sweep(store, claims)
        assert list(store.drafts.iterdir()) == [claimed] and OTHER in store
        owner.release("c" * 24)
        sweep(store, claims)
    assert not list(store.drafts.iterdir())


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
    with Claims(root) as claims, Store(root).draft(KEY) as draft:
        assert claims.take(KEY)
        draft.write_json("rows.json", [{"acc": "torn"}])
        reached.set()
        signal.pause()


def test_a_killed_process_publishes_nothing_and_the_next_one_completes(store):
    context = multiprocessing.get_context("fork")
    reached = context.Event()
    process = context.Process(target=_hang_in_a_draft, args=(store.root, reached))
    process.start()
    assert reached.wait(20)
    with Claims(store.root) as claims:
        sweep(store, claims)
        assert unfinished(store) == [KEY]  # it is alive
        process.kill()
        process.join()
        assert KEY not in store
        publish(store, value="whole")
        assert store.rows(KEY) == [{"acc": "whole"}] and unfinished(store) == [KEY]
        sweep(store, claims)
    assert not list(store.drafts.iterdir())


def fill(draft):
    draft.write_json("job.json", JOBS[draft.key])
    draft.write_json("rows.json", [{"acc": 0.5}])
    draft.write_tensors("tensors.safetensors", {"x": torch.arange(3.0)})
    folder = draft.folder
    assert (folder / "tensors.safetensors").stat().st_mode & 0o044 == folder.stat().st_mode & 0o044


def test_the_checksum_of_every_file_is_published_with_it(store):
    with store.draft(KEY) as draft:
        fill(draft)
    folder = store.root / KEY
    sums = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != CHECKSUMS
    }
    assert json.loads((folder / CHECKSUMS).read_text()) == sums and len(sums) == 3
    assert changes(folder) == []


def test_a_checksum_of_a_file_larger_than_one_read(tmp_path):
    content = bytes(range(251)) * 12345
    (tmp_path / "large").write_bytes(content)
    assert checksum(tmp_path / "large") == hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A published folder that tests change and put back."""
    store = Store(tmp_path_factory.mktemp("sound"))
    with store.draft(KEY) as draft:
        fill(draft)
    return store.root / KEY


@pytest.mark.tried("a byte of a file of a finished job is changed", 150)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_one_changed_byte_of_any_file_is_found(sound, data):
    file = data.draw(st.sampled_from(sorted(sound.iterdir())))
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    file.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
    try:
        assert changes(sound)
    finally:
        file.write_bytes(whole)
    assert changes(sound) == []


@pytest.mark.parametrize(("old", "new"), [(b"\n}\n", b"\n}\r"), (b"\n ", b"\n\t"), (b"{", b"[")])
def test_a_changed_byte_that_still_parses_is_found(sound, old, new):
    file = sound / CHECKSUMS
    whole = file.read_bytes()
    assert old in whole
    try:
        file.write_bytes(whole.replace(old, new, 1))
        assert changes(sound) == [f"{CHECKSUMS} changed"]
        file.write_text("[]\n")
        assert changes(sound) == [f"{CHECKSUMS} changed"]
    finally:
        file.write_bytes(whole)


def test_missing_extra_cut_and_renamed_files_are_found(sound):
    rows, tensors, more = sound / "rows.json", sound / "tensors.safetensors", sound / "more"
    whole = rows.read_bytes()
    try:
        more.write_bytes(b"")
        assert changes(sound) == ["more was not published"]
        assert changes(sound, "rows.json") == []
        tensors.rename(more)
        assert changes(sound) == ["more was not published", "tensors.safetensors is missing"]
        more.rename(tensors)
        rows.write_bytes(whole[:-1])
        assert changes(sound) == ["rows.json changed"]
        assert changes(sound, "tensors.safetensors") == []
    finally:
        rows.write_bytes(whole)
    assert changes(sound) == []


def test_what_was_altered_is_not_read(store):
    with store.draft(KEY) as draft:
        fill(draft)
    folder = store.root / KEY
    tensors = folder / "tensors.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # loads, with another weight
    with pytest.raises(InputError, match=r"tensors.safetensors changed; remove this folder"):
        store.tensors(KEY)
    tensors.write_bytes(whole)
    assert store.tensors(KEY)["x"].tolist() == [0, 1, 2]
    (folder / "rows.json").write_text('[{"acc": 0.6}]')
    with pytest.raises(InputError, match=r"rows.json changed"):
        store.rows(KEY)


# What may happen to a file, and to a folder; each has to be noticed by every way of reading.
def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def zero(file):
    file.write_bytes(bytes(file.stat().st_size))


def flip(file):
    content = bytearray(file.read_bytes())
    content[-len(content) // 3] ^= 1
    file.write_bytes(content)


def lose(file):
    file.unlink()


def grow(file):
    with file.open("ab") as stream:
        stream.write(b" ")


def swap(file):
    """With the file of the same name of another job, whose checksums fit it."""
    other = file.parent.with_name(OTHER) / file.name
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def link(file):
    file.unlink()
    file.symlink_to(file.parent.with_name(OTHER) / file.name)


def dangle(file):
    file.unlink()
    file.symlink_to("nowhere")


def become_a_folder(file):
    file.unlink()
    file.mkdir()


def become_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


FILES = ("job.json", "rows.json", "texts.json", "tensors.safetensors", CHECKSUMS)
HARM = (
    cut, empty, zero, flip, lose, grow, swap, link, dangle, become_a_folder, become_a_pipe
)  # fmt: skip


def two_jobs(store):
    """Folders of two jobs that differ in every file."""
    for number, (name, job) in enumerate(JOBS.items()):
        with store.draft(name) as draft:
            draft.write_json("job.json", job)
            draft.write_json("rows.json", [{"acc": number}])
            draft.write_json("texts.json", {"attack": str(number)})
            draft.write_tensors("tensors.safetensors", {"x": torch.arange(3.0) + number})
    return store.root / KEY, store.root / OTHER


READERS = {
    "rows.json": Store.rows,
    "texts.json": Store.texts,
    "tensors.safetensors": Store.tensors,
}


@pytest.mark.tried("a file of a finished job is cut, zeroed, replaced, linked or removed", 1)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_neither_read_nor_called_sound(store, name, harm):
    folder, _ = two_jobs(store)
    assert faults(folder) == []
    harm(folder / name)
    assert faults(folder)
    # The description vouches for all files, the checksums too; one flipped digest for its file.
    readers = [READERS[name]] if name in READERS else list(READERS.values())
    if (name, harm) == (CHECKSUMS, flip):
        readers = [Store.tensors]
    for read in readers:
        with pytest.raises(InputError, match=rf"{KEY}: .*; remove this folder") as error:
            read(store, KEY)
        assert "\n" not in str(error.value)


def swapped(one, other):
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def copied(one, other):
    shutil.rmtree(other)
    shutil.copytree(one, other)


def linked(one, other):
    shutil.rmtree(other)
    other.symlink_to(one)


@pytest.mark.tried("folders of jobs are swapped, copied or linked", 1)
@pytest.mark.parametrize("harm", [swapped, copied, linked], ids=lambda harm: harm.__name__)
def test_a_folder_under_the_key_of_another_job_is_not_used(store, harm):
    one, other = two_jobs(store)
    harm(one, other)
    assert faults(other) == ["job.json describes another job"]
    for read in READERS.values():
        with pytest.raises(InputError, match="describes another job; remove this folder"):
            read(store, OTHER)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.tried("the disk is full while a job is published", 1)
@pytest.mark.parametrize("stage", ["rows", "checksum", "checksums", "_sync", "rename"])
def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, stage):
    def write(draft, name, value):
        (draft.folder / name).write_text("torn")
        if name == f"{stage}.json":
            full()

    if stage == "rename":
        monkeypatch.setattr(module.Path, "rename", full)
    elif stage in ("checksum", "_sync"):
        monkeypatch.setattr(module, stage, full)
    else:
        monkeypatch.setattr(Draft, "write_json", write)
    with pytest.raises(OSError, match="No space left"), store.draft(KEY) as draft:
        draft.write_json("rows.json", [])
    assert KEY not in store and not list(store.drafts.iterdir())
    monkeypatch.undo()
    publish(store, value="later")
    assert store.rows(KEY) == [{"acc": "later"}]


def test_a_full_disk_is_an_error_of_the_system_for_tensors_too(tmp_path, monkeypatch):
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    told = iter([text, "another error"])

    def save_file(*_):
        raise SafetensorError(next(told))

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    draft = Draft(tmp_path, KEY)
    with pytest.raises(OSError, match="No space left") as caught:
        draft.write_tensors("x", {"x": torch.zeros(1)})
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError, match="another"):
        draft.write_tensors("x", {"x": torch.zeros(1)})


def test_a_full_disk_leaves_no_torn_failure_record(store, monkeypatch):
    store.record_failure(KEY, {"error": "E: old"})
    monkeypatch.setattr(module.Path, "replace", full)
    with pytest.raises(OSError):
        store.record_failure(KEY, {"error": "E: new"})
    assert [file.name for file in store.failures.iterdir()] == [f"{KEY}.json"]
    assert store.failure(KEY) == {"error": "E: old"}
    (store.failures / f"{KEY}.json").write_text("")  # as a crash of the machine leaves it
    assert store.failure(KEY) is None


TEN = {job_key({"job": number}): {"job": number} for number in range(10)}


def _publish_at_once(root, number, barrier):
    store = Store(root)
    for name, job in TEN.items():
        with store.draft(name) as draft:
            draft.write_json("job.json", job)
            draft.write_json("rows.json", [{"acc": number}])
            (draft.folder / "log.jsonl").write_text(f"{number}\n" * (number + 1))
            barrier.wait(20)


def test_processes_that_publish_one_job_at_once_leave_one_sound_folder(store):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [
        context.Process(target=_publish_at_once, args=(store.root, number, barrier))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert store.keys() == sorted(TEN) and not list(store.drafts.iterdir())
    for name in TEN:
        ((row,), log) = store.rows(name), (store.root / name / "log.jsonl").read_text()
        assert changes(store.root / name) == []
        assert log == f"{row['acc']}\n" * (row["acc"] + 1)


def test_a_removed_job_is_absent_at_once(store, monkeypatch):
    publish(store)
    publish(store, OTHER)
    absent = []
    real = shutil.rmtree
    monkeypatch.setattr(
        module.shutil, "rmtree", lambda f, **k: (absent.append(KEY not in store), real(f, **k))
    )
    store.remove(KEY)
    assert absent == [True] and store.keys() == [OTHER]
    assert not list(store.drafts.iterdir())


def test_only_folders_named_by_a_key_are_jobs(store):
    publish(store)
    (store.root / "notes").mkdir()
    (store.root / ("A" * 24)).mkdir()
    (store.root / OTHER).write_text("a file")
    (store.drafts / ".nfs0001").touch()
    (store.root / ("c" * 24)).symlink_to(store.root / KEY)
    assert store.keys() == [KEY]
    assert store.unfinished() == []
    with Claims(store.root) as claims:
        sweep(store, claims)
    assert (store.drafts / ".nfs0001").exists()
