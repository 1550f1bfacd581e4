"""Claims: one driver runs a job, and nobody waits for a driver that is gone."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
from fakes import claimed

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import discard, sweep
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError

KEY, OTHER = "a" * 24, "b" * 24


def rewrite(root, key, **changes):
    """Change what a claim says of its owner."""
    file = root / "claims" / key
    text = file.read_text()
    for field, value in changes.items():
        text = re.sub(rf"^{field}=.*$", f"{field}={value}", text, flags=re.M)
    file.write_text(text)


def left_by(root, key=KEY, **changes):
    """A claim of a process of this machine that took it and was killed."""
    program = (
        "import os, sys; from pathlib import Path;"
        "from sau_bench.benchmark.cache.claims import Claims;"
        f"claims = Claims(Path(sys.argv[1])).__enter__(); claims.take({key!r}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    rewrite(root, key, **changes)


def test_a_claim_is_taken_once_and_given_back(tmp_path):
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        assert mine.take(KEY) and mine.take(KEY)
        assert not other.take(KEY) and other.take(OTHER)
        assert mine.is_live(KEY) and mine.is_live(OTHER) and mine.live() == [KEY, OTHER]
        assert mine.owner(OTHER) == f"process {os.getpid()} on {socket.gethostname()}"
        mine.release(KEY)
        assert not mine.is_live(KEY) and other.take(KEY)
        mine.release(KEY)
        assert not mine.take(KEY)
        other.release(KEY)
        assert mine.take(KEY)
    assert claimed(tmp_path) == set()
    assert mine.owner(KEY) == "another process"


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path):
    left_by(tmp_path)
    assert claimed(tmp_path) == {KEY}
    assert not Claims(tmp_path).is_live(KEY)
    left_by(tmp_path)
    assert Claims(tmp_path).take(KEY)


def test_what_dead_processes_of_this_machine_left_is_cleared_at_the_start(tmp_path):
    left_by(tmp_path)
    other = Claims(tmp_path)
    assert other.take(OTHER)
    with Claims(tmp_path):
        assert claimed(tmp_path) == {OTHER}


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs the start of a process")
def test_a_new_process_of_the_same_number_is_another_one(tmp_path):
    left_by(tmp_path, pid=os.getpid())
    assert Claims(tmp_path).take(KEY)


def test_a_process_of_the_same_number_in_another_container_may_live(tmp_path):
    left_by(tmp_path, host=f"{socket.gethostname()}?pidns-f0000123")
    assert Claims(tmp_path).is_live(KEY)
    assert Claims(tmp_path).owner(KEY).endswith(f" on {socket.gethostname()}")


def test_another_machine_loses_its_claim_when_it_no_longer_touches_it(tmp_path):
    lease = 0.4
    other, mine = Claims(tmp_path, lease=lease), Claims(tmp_path, lease=lease)
    assert other.__enter__().take(KEY)
    rewrite(tmp_path, KEY, host="elsewhere")
    end = time.monotonic() + 2 * lease
    while time.monotonic() < end:
        assert not mine.take(KEY)
        time.sleep(0.02)
    assert mine.owner(KEY).endswith(" on elsewhere") and mine.idle(KEY) < lease
    other._leases[KEY]._stop_heartbeat()  # the machine goes down
    start = time.monotonic()
    while not mine.take(KEY):
        assert time.monotonic() - start < 20
        time.sleep(0.02)
    assert time.monotonic() - start > lease / 2
    other.release(KEY)  # it comes back, and leaves what another process has taken over
    assert claimed(tmp_path) == {KEY} and not Claims(tmp_path, lease=lease).take(KEY)


def test_a_torn_claim_counts_by_its_age(tmp_path):
    with Claims(tmp_path) as mine:
        file = tmp_path / "claims" / KEY
        file.write_text("filelock/2\npid=")
        assert not mine.take(KEY)
        start = time.monotonic()
        while not mine.take(KEY):
            assert time.monotonic() - start < 20
            time.sleep(0.05)
        assert time.monotonic() - start > 0.5


def test_of_many_that_take_over_a_claim_one_gets_it(tmp_path):
    left_by(tmp_path)
    file = tmp_path / "claims" / KEY
    left = file.read_text()
    for _ in range(50):
        file.write_text(left)
        barrier, won = threading.Barrier(4), []

        def take(barrier=barrier, won=won):
            rival = Claims(tmp_path)
            barrier.wait()
            won.append(rival if rival.take(KEY) else None)

        rivals = [threading.Thread(target=take) for _ in range(4)]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join()
        (winner,) = filter(None, won)
        winner.release(KEY)


def test_discarding_is_all_or_nothing(tmp_path):
    store = Store(tmp_path)
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        for key in (KEY, OTHER):
            with store.draft(key) as draft:
                draft.write_json("rows.json", [])
        store.record_failure("c" * 24, {"error": "x"})
        everything = [KEY, OTHER, "c" * 24]
        assert other.take(OTHER)
        with pytest.raises(InputError) as refused:
            discard(everything, store, mine)
        assert OTHER in str(refused.value) and f"process {os.getpid()}" in str(refused.value)
        assert KEY in store and OTHER in store and store.failure("c" * 24)
        other.release(OTHER)
        store.checkpoint(KEY).write_bytes(b"weights")
        assert discard(everything, store, mine) == 2
        assert not store.checkpoint(KEY).exists()
        assert not store.keys() and store.failure("c" * 24) is None
        assert not claimed(tmp_path) and not list(store.drafts.iterdir())


CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
HOLD = """
import sys, time
from pathlib import Path
from sau_bench.benchmark.cache.claims import Claims
with Claims(Path(sys.argv[1])) as claims:
    claims.take(sys.argv[2])
    claims.announce([sys.argv[3]])
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_driver_in_another_container_of_this_host_is_alive(tmp_path):
    """Its number says nothing here: its draft is not swept, and its grid's jobs are seen."""
    if shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"]).returncode:
        pytest.skip("needs namespaces")
    hold = [*CONTAINER, sys.executable, "-c", HOLD, str(tmp_path), KEY, OTHER]
    driver = subprocess.Popen(hold, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout.readline() == "held\n"
        store = Store(tmp_path)
        (store.drafts / f"{KEY}.0123456789abcdef").mkdir(parents=True)
        with Claims(tmp_path) as claims:
            sweep(store, claims)
            assert len(store.unfinished()) == 1 and not claims.take(KEY)
            assert list(claims.announced().values()) == [[OTHER]]
    finally:
        driver.kill()
        driver.wait()


def test_a_grid_is_announced_until_its_driver_ends(tmp_path):
    other = Claims(tmp_path)
    with Claims(tmp_path) as claims:
        claims.announce([KEY, OTHER])
        assert list(other.announced().values()) == [[KEY, OTHER]] and other.live() == []
    assert other.announced() == {} and not list((tmp_path / "claims").iterdir())
    program = (
        "import os, sys; from pathlib import Path;"
        "from sau_bench.benchmark.cache.claims import Claims;"
        "claims = Claims(Path(sys.argv[1])).__enter__(); claims.announce(['a' * 24]); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(list((tmp_path / "claims").iterdir())) == 2
    assert other.announced() == {} and not list((tmp_path / "claims").iterdir())
