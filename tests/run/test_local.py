"""Workers of this machine: what they see, and that none outlives its driver."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import pytest
from clusters import PATHS, alive, descendants, wait_for
from fakes import attempts, claimed

from sau_bench.benchmark.process import Stale, spoil
from sau_bench.benchmark.run.failures import Overdue, WorkerLost
from sau_bench.benchmark.run.local import LocalPool

HERE = Path(__file__).parents[1]
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


@pytest.fixture
def pool():
    pool = LocalPool(["", ""], limit=60)
    yield pool
    pool.close()


def chatter(text):
    print(text * 100)
    os.write(1, text.encode())
    return text


def boom():
    raise KeyError("a key")


def spawn():
    """What a data loader does with worker processes, under the strictest start method."""
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join(60)
    return process.exitcode


def test_results_exceptions_and_prints(pool):
    first = pool.submit(chatter, "x")
    assert first.result(60) == "x"
    with pytest.raises(KeyError, match="a key"):
        pool.submit(boom).result(60)
    with pytest.raises((TypeError, pickle.PicklingError)):
        pool.submit(threading.Lock).result(60)
    # All of that in one worker, which has survived it.
    here = {pool.submit(os.getpid).result(60) for _ in range(3)}
    assert len(here) == 1 and os.getpid() not in here


def test_slots_on_the_cpu_share_its_cores_and_see_no_device(pool):
    cores = joblib.cpu_count()
    assert pool.submit(os.getenv, "OMP_NUM_THREADS").result(60) == str(max(1, cores // 2))
    assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60) == ""


def test_a_pool_never_takes_more_than_it_has_slots(pool):
    assert pool.slots() == pool.free() == 2
    running = [pool.submit(time.sleep, 0.2) for _ in range(2)]
    assert pool.free() == 0 and pool.submit_alone(os.getpid) is None
    assert pool.wait(running, 60)
    wait_for(lambda: pool.free() == 0 and all(future.done() for future in running))
    # The lone job has reserved its device, which is all there is.
    lone = pool.submit_alone(time.sleep, 0.2)
    assert lone is not None and pool.free() == 0
    lone.result(60)
    assert pool.free() == 2


def test_a_job_may_start_processes(pool):
    assert pool.submit(spawn).result(60) == 0


def test_a_worker_that_ends_is_replaced_and_said_how_it_ended(pool):
    with pytest.raises(WorkerLost, match="the worker exited with status 3"):
        pool.submit(os._exit, 3).result(60)
    with pytest.raises(WorkerLost, match=r"was killed by SIGSEGV$"):
        pool.submit(os.kill, 0, signal.SIGSEGV).result(60)
    assert pool.submit(os.getenv, "NO_SUCH", "fine").result(60) == "fine"


def stale_in(stale):
    """As a job that this process has an earlier text of."""
    if os.getpid() == stale:
        raise Stale("an earlier text")
    return os.getpid()


def spoil_it():
    spoil("a switch was left changed")
    return os.getpid()


def test_a_process_that_is_stale_for_a_job_makes_way_for_a_fresh_one(pool):
    first = pool.submit(os.getpid).result(60)
    second = pool.submit(stale_in, first).result(60)
    assert second != first
    assert pool.submit(os.getpid).result(60) == second


def test_a_process_that_a_job_has_spoiled_runs_no_other(pool):
    spoiled = pool.submit(spoil_it).result(60)
    assert pool.submit(os.getpid).result(60) != spoiled


def started_since(before):
    """A worker and what it has started, once both are there."""
    new = descendants(os.getpid()) - before
    return new if len(new) > 1 else None


@linux
def test_a_job_over_its_limit_is_killed_with_what_it_has_started():
    before = descendants(os.getpid())
    pool = LocalPool([""], limit=1)
    job = pool.submit(os.system, "sleep 600")
    started = wait_for(lambda: started_since(before))
    with pytest.raises(Overdue, match=r"longer than the limit of 1 s"):
        job.result(60)
    wait_for(lambda: not alive(started))
    assert pool.submit(os.getenv, "NO_SUCH", "fine").result(60) == "fine"
    pool.close()


@linux
def test_closing_kills_what_runs(pool):
    before = descendants(os.getpid())
    job = pool.submit(os.system, "sleep 600")
    started = wait_for(lambda: started_since(before))
    pool.close()
    with pytest.raises(WorkerLost):
        job.result(60)
    wait_for(lambda: not alive(started))


def start_driver(root, *arguments):
    return subprocess.Popen(
        [sys.executable, str(HERE / "drive_fakes.py"), "hang", str(root), *arguments],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@linux
@pytest.mark.parametrize(
    ("number", "group", "status"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_however_a_driver_is_ended_nothing_of_it_survives(tmp_path, number, group, status):
    driver = start_driver(tmp_path)
    try:
        wait_for(lambda: attempts(tmp_path, "hang 0") and attempts(tmp_path, "hang 1"))
        workers = descendants(driver.pid)
        assert len(alive(descendants(driver.pid, guards=False))) == 2
        (os.killpg if group else os.kill)(driver.pid, number)
        start = time.monotonic()
        _, errors = driver.communicate(timeout=10)
        assert driver.returncode == status
        wait_for(lambda: not alive(workers), seconds=10 - (time.monotonic() - start))
    finally:
        driver.kill()
    if number != signal.SIGKILL:
        assert errors == "interrupted; the same command goes on where this one stopped\n"
        assert not claimed(tmp_path / "cache")


@linux
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_prints_no_traceback(tmp_path, first):
    driver = start_driver(tmp_path)
    try:
        wait_for(lambda: attempts(tmp_path, "hang 0") and attempts(tmp_path, "hang 1"))
        workers = descendants(driver.pid)
        for number in (first, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            driver.send_signal(number)
            time.sleep(0.02)
        _, errors = driver.communicate(timeout=10)
        assert driver.returncode == (130 if first == signal.SIGINT else 143)
        assert errors == "interrupted; the same command goes on where this one stopped\n"
        wait_for(lambda: not alive(workers), seconds=10)
    finally:
        driver.kill()


LEAK = """
from sau_bench.benchmark.run.worker import _start_tracker
_start_tracker()
from loky.backend import resource_tracker
resource_tracker.register("/no-such-semaphore", "semlock")
"""


def test_a_semaphore_that_a_killed_pool_leaves_is_no_warning_for_the_user():
    code, env = [sys.executable, "-c", LEAK], {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run(code, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""


HOLDER = """
import ctypes, os, sys, threading
from sau_bench.benchmark.run.local import LocalPool
pool = LocalPool([""])
pool.submit(os.getpid).result(60)
file = sys.argv[1]
pool.submit(os.system, f"sleep 600 & echo $! > {file}.child").result(60)
pool.submit(exec, f"import ctypes; open({file!r}, 'w').close(); ctypes.PyDLL(None).sleep(600)")
threading.Event().wait()
"""


@linux
def test_a_job_that_holds_the_global_lock_ends_with_its_driver_and_what_it_started(tmp_path):
    file = tmp_path / "holds"
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], env={**os.environ, "PYTHONPATH": PATHS}
    )
    try:
        wait_for(file.exists)
        time.sleep(0.2)
        started = {*descendants(driver.pid), int(Path(f"{file}.child").read_text())}
        assert len(alive(started)) >= 2
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: not alive(started), seconds=5)


@linux
def test_a_worker_outlives_the_thread_that_did_not_start_it(pool):
    """The system ends it with the thread that started it, and that is one of the pool's."""
    first = []
    caller = threading.Thread(target=lambda: first.append(pool.submit(os.getpid).result(60)))
    caller.start()
    caller.join()
    time.sleep(0.2)
    assert [pool.submit(os.getpid).result(60)] == first
