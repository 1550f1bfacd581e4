"""Claims: one driver runs a job, and nobody waits for a driver that is gone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from fakes import claimed

from benchmark.cache import claims as module
from benchmark.cache.claims import Claims, discard
from benchmark.cache.store import Store, write_json
from benchmark.errors import InputError

KEY, OTHER = "a" * 24, "b" * 24


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Claims as a process of another machine makes them."""
    own = module._self()
    other = own | {"host": "elsewhere", "pid": 1}
    monkeypatch.setattr(module, "_self", lambda: other)
    claims = Claims(tmp_path, beat=0.05)
    monkeypatch.setattr(module, "_self", lambda: own)
    return claims


def left_by(root, **changes):
    """A claim of a process that took it and was killed."""
    program = (
        "import sys; from pathlib import Path; from benchmark.cache.claims import Claims;"
        f"Claims(Path(sys.argv[1])).take({KEY!r})"
    )
    subprocess.run([sys.executable, "-c", program, str(root)], check=True)
    file = root / "claims" / KEY
    owner = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(owner))
    return owner


def test_a_claim_is_taken_once_and_given_back(tmp_path, elsewhere):
    with Claims(tmp_path) as mine:
        assert mine.take(KEY) and mine.take(KEY)
        assert not elsewhere.take(KEY) and elsewhere.take(OTHER)
        assert mine.owner(OTHER) == "process 1 on elsewhere"
        assert mine.owner(KEY).startswith(f"process {os.getpid()} on ")
        mine.release(KEY)
        assert elsewhere.take(KEY)
        mine.release(KEY)
        assert not mine.take(KEY)
        elsewhere.release(KEY)
        assert mine.take(KEY)
    assert claimed(tmp_path) == {OTHER}
    assert mine.owner(KEY) == "another process"


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path):
    owner = left_by(tmp_path)
    assert owner["pid"] != os.getpid()
    assert Claims(tmp_path).take(KEY)


def test_what_dead_processes_of_this_machine_left_is_cleared_at_the_start(tmp_path, elsewhere):
    left_by(tmp_path)
    assert elsewhere.take(OTHER)
    with Claims(tmp_path):
        assert claimed(tmp_path) == {OTHER}


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs the start of a process")
def test_a_new_process_of_the_same_number_is_another_one(tmp_path):
    left_by(tmp_path, pid=os.getpid())
    assert Claims(tmp_path).take(KEY)


def test_another_machine_loses_its_claim_when_it_no_longer_touches_it(tmp_path, elsewhere):
    mine = Claims(tmp_path, stale=0.3)
    with elsewhere:
        assert elsewhere.take(KEY)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            assert not mine.take(KEY)
            time.sleep(0.02)
        elsewhere._over.set()
        start = time.monotonic()
        while not mine.take(KEY):
            assert time.monotonic() - start < 20
            time.sleep(0.02)
        assert time.monotonic() - start > 0.2
        # It comes back, and leaves what is no longer its own.
    assert mine.owner(KEY).startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_links_has_claims_as_well(tmp_path, monkeypatch, elsewhere):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with Claims(tmp_path) as mine:
        assert mine.take(KEY) and not elsewhere.take(KEY)
        assert claimed(tmp_path) == {KEY}
    assert elsewhere.take(KEY) and not mine.take(KEY)


def test_a_torn_claim_counts_by_its_age(tmp_path):
    mine = Claims(tmp_path, stale=0.1)
    (tmp_path / "claims" / KEY).write_text('{"host": ')
    assert not mine.take(KEY)
    time.sleep(0.15)
    assert mine.take(KEY)


def test_of_many_that_take_over_a_claim_one_gets_it(tmp_path):
    left_by(tmp_path)
    left = (tmp_path / "claims" / KEY).read_text()
    for _ in range(50):
        (tmp_path / "claims" / KEY).write_text(left)
        barrier, won = threading.Barrier(4), []

        def take(number, barrier=barrier, won=won):
            rival = Claims(tmp_path)
            rival._text = json.dumps(module._self() | {"rival": number})
            barrier.wait()
            won.append(rival.take(KEY))

        rivals = [threading.Thread(target=take, args=(number,)) for number in range(4)]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join()
        assert won.count(True) == 1


def test_discarding_is_all_or_nothing(tmp_path, elsewhere):
    store, mine = Store(tmp_path), Claims(tmp_path)
    for name in (KEY, OTHER):
        with store.draft(name) as folder:
            write_json(folder / "rows.json", [])
    store.record_failure("c" * 24, {"error": "x"})
    everything = [KEY, OTHER, "c" * 24]
    assert elsewhere.take(OTHER)
    with pytest.raises(InputError, match="process 1 on elsewhere; nothing is discarded"):
        discard(everything, store, mine)
    assert KEY in store and OTHER in store and store.failure("c" * 24)
    elsewhere.release(OTHER)
    store.checkpoint(everything[0]).write_bytes(b"weights")
    assert discard(everything, store, mine) == 2
    assert not store.checkpoint(everything[0]).exists()
    assert not store.keys() and store.failure("c" * 24) is None
    assert not claimed(tmp_path) and not list(store.drafts.iterdir())
