"""Failures, dead workers, slots and orphans, with fake jobs that train nothing."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from benchmark.engine import SlotPool, run
from benchmark.jobs import DefenseJob, key
from benchmark.store import Store, write_json


@dataclass(frozen=True)
class Fake:
    """A job by name; what it does is written in the name."""

    name: str

    def canonical(self):
        return {"fake": self.name}


def after(job, name):
    """A job that needs another one."""
    return DefenseJob(victim=job, defense=Fake(name), clean_ratio=0.1, score_every=1)


def name_of(job):
    return job.defense.name if isinstance(job, DefenseJob) else job.name


def act(job, root):
    """Do what the job's name says, then publish how the worker looks from inside."""
    store, name = Store(root / "cache"), name_of(job)
    attempts = root / f"{name}.attempts"
    with attempts.open("a") as file:
        file.write("x")
    with store.draft(key(job)) as folder:
        if name.startswith("raise"):
            raise ValueError(f"{name} is bad\nin two lines")
        if name.startswith("die always"):
            os._exit(9)
        if name.startswith("die once") and attempts.stat().st_size == 1:
            os._exit(9)
        start = dict(
            entry.split("=", 1)
            for entry in Path("/proc/self/environ").read_text().split("\0")
            if "=" in entry
        )
        device = start.get("CUDA_VISIBLE_DEVICES")
        write_json(folder / "rows.json", [{"pid": os.getpid(), "device": device}])


def trace(jobs, root, pool, slots, work=act):
    """Run the jobs; (states by job name in order, details by job name)."""
    states, details = defaultdict(list), {}
    for outcome in run(jobs, Store(root / "cache"), pool, partial(work, root=root), slots):
        name = name_of(outcome.job)
        states[name].append(outcome.state)
        if outcome.detail:
            details[name] = outcome.detail
    return dict(states), details


def attempts(root, name):
    file = root / f"{name}.attempts"
    return file.stat().st_size if file.exists() else 0


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_a_raising_job_fails_alone_and_blocks_its_dependants(tmp_path, threads):
    good, bad = Fake("good"), Fake("raise")
    jobs = [bad, after(bad, "first"), after(bad, "second"), good, after(good, "third")]
    states, details = trace(jobs, tmp_path, threads, 2)
    assert states == {
        "raise": ["started", "failed"],
        "first": ["blocked"],
        "second": ["blocked"],
        "good": ["started", "done"],
        "third": ["started", "done"],
    }
    assert details == dict.fromkeys(("raise", "first", "second"), "ValueError: raise is bad")
    recorded = Store(tmp_path / "cache").failure(key(bad))
    assert recorded["error"] == "ValueError: raise is bad"
    assert "in two lines" in recorded["traceback"] and "in act" in recorded["traceback"]
    assert attempts(tmp_path, "raise") == 1 and attempts(tmp_path, "first") == 0
    assert Store(tmp_path / "cache").failure(key(jobs[1])) is None


def test_a_second_run_repeats_neither_results_nor_failures(tmp_path, threads):
    good, bad = Fake("good"), Fake("raise")
    jobs = [good, bad, after(good, "raise too"), after(good, "fine"), after(bad, "blocked")]
    trace(jobs, tmp_path, threads, 2)
    states, details = trace(jobs, tmp_path, threads, 2)
    assert states == {
        "good": ["cached"],
        "fine": ["cached"],
        "raise": ["failed"],
        "raise too": ["failed"],
        "blocked": ["blocked"],
    }
    assert details["raise"] == "earlier: ValueError: raise is bad"
    assert details["blocked"] == "ValueError: raise is bad"
    assert {attempts(tmp_path, name) for name in ("good", "fine", "raise", "raise too")} == {1}
    Store(tmp_path / "cache").forget_failure(key(bad))
    states, _ = trace(jobs, tmp_path, threads, 2)
    assert states["raise"] == ["started", "failed"] and states["raise too"] == ["failed"]
    assert attempts(tmp_path, "raise") == 2


def test_what_is_missing_is_run_and_nothing_else(tmp_path, threads):
    good = Fake("good")
    trace([good], tmp_path, threads, 2)
    states, _ = trace([good, after(good, "new"), Fake("other")], tmp_path, threads, 2)
    assert states == {
        "good": ["cached"],
        "new": ["started", "done"],
        "other": ["started", "done"],
    }
    assert attempts(tmp_path, "good") == 1


def test_a_worker_that_publishes_nothing_has_failed(tmp_path, threads):
    states, details = trace([Fake("idle")], tmp_path, threads, 1, work=lambda job, root: None)
    assert states == {"idle": ["started", "failed"]}
    assert details == {"idle": "the worker published nothing"}


def test_a_job_whose_need_is_not_among_the_jobs_is_an_error(tmp_path, threads):
    with pytest.raises(RuntimeError, match="not among the jobs"):
        trace([after(Fake("absent"), "waits")], tmp_path, threads, 1)


@pytest.mark.parametrize("slots", [1, 3])
def test_never_more_jobs_in_flight_than_slots(tmp_path, slots):
    lock, now, most = threading.Lock(), [], []
    full = threading.Barrier(slots)

    def work(job, root):
        with lock:
            now.append(job)
            most.append(len(now))
        full.wait(20)  # all slots are busy at once, or this breaks
        act(job, root)
        with lock:
            now.remove(job)

    jobs, ticks = [Fake(f"job {i}") for i in range(6)], []
    store = Store(tmp_path / "cache")
    with ThreadPoolExecutor(8) as pool:
        do = partial(work, root=tmp_path)
        outcomes = list(run(jobs, store, pool, do, slots, lambda live: ticks.append(len(live))))
    assert max(most) == slots
    assert max(ticks) == slots
    assert sum(outcome.state == "done" for outcome in outcomes) == 6


def test_jobs_start_in_the_order_given_with_needs_first(tmp_path, threads):
    first, second = Fake("1"), Fake("2")
    jobs = [after(second, "2a"), first, after(first, "1a"), second]
    order = []
    store = Store(tmp_path / "cache")
    for outcome in run(jobs, store, threads, partial(act, root=tmp_path), 1):
        if outcome.state == "started":
            order.append(name_of(outcome.job))
    assert order == ["1", "1a", "2", "2a"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Real workers on two slots: (states, details, root, rows by job name)."""
    root = tmp_path_factory.mktemp("grid")
    always = Fake("die always")
    jobs = [always, after(always, "blocked"), Fake("die once"), Fake("raise")]
    jobs += [Fake(f"good {i}") for i in range(4)]
    pool = SlotPool(["5", "7"])
    try:
        states, details = trace(jobs, root, pool, 2)
    finally:
        pool.shutdown(wait=False)
    store = Store(root / "cache")
    rows = {name_of(job): store.rows(key(job))[0] for job in jobs if key(job) in store}
    return states, details, root, rows


def test_a_dead_worker_costs_only_its_own_job_which_is_tried_again(grid):
    states, _, root, _ = grid
    assert states["die once"] == ["started", "lost", "started", "done"]
    assert attempts(root, "die once") == 2
    for i in range(4):
        assert states[f"good {i}"] == ["started", "done"]
        assert attempts(root, f"good {i}") == 1
    assert states["raise"] == ["started", "failed"] and attempts(root, "raise") == 1


def test_a_job_that_always_kills_its_worker_fails_after_three_tries(grid):
    states, details, root, _ = grid
    assert states["die always"] == ["started", "lost", "started", "lost", "started", "failed"]
    assert attempts(root, "die always") == 3
    assert states["blocked"] == ["blocked"]
    assert details["blocked"] == details["die always"] != ""
    assert Store(root / "cache").failure(key(Fake("die always"))) is not None


def test_workers_see_only_their_slots_device_from_their_start(grid):
    rows = grid[3]
    assert set(rows) == {"die once", "good 0", "good 1", "good 2", "good 3"}
    assert {row["device"] for row in rows.values()} == {"5", "7"}
    devices = defaultdict(set)
    for row in rows.values():
        devices[row["pid"]].add(row["device"])
    assert all(len(seen) == 1 for seen in devices.values())
    assert os.getpid() not in devices


def test_dead_workers_leave_drafts_that_the_next_start_sweeps(grid):
    store = Store(grid[2] / "cache")
    store.sweep()
    assert not list(store.drafts.iterdir())


DRIVER = """
import os, sys, time
from benchmark.engine import SlotPool

if __name__ == "__main__":
    pool = SlotPool(["", ""])
    print(pool.submit(os.getenv, "OMP_NUM_THREADS").result())
    print(pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result())
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs process descriptors of Linux")
def test_a_worker_ends_soon_after_its_driver_is_killed(tmp_path):
    file = tmp_path / "driver.py"
    file.write_text(textwrap.dedent(DRIVER))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (tmp_path / "stderr").open("w") as errors:
        driver = subprocess.Popen(
            [sys.executable, str(file)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    worker = None
    try:
        threads, devices, pid = (driver.stdout.readline().strip() for _ in range(3))
        # Two slots on the CPU share its cores and see no GPU.
        assert threads == str(max(1, len(os.sched_getaffinity(0)) // 2)) and devices == ""
        worker = os.pidfd_open(int(pid))
        assert not select.select([worker], [], [], 0)[0]
        driver.kill()
        driver.wait()
        gone, _, _ = select.select([worker], [], [], 2)
        assert gone, "the worker outlives its driver"
    finally:
        driver.kill()
        driver.stdout.close()
        if worker is not None:
            if not select.select([worker], [], [], 0)[0]:
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)
