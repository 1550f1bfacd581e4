"""Kills of workers and drivers at random moments: grids end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters import PATHS, alive, descendants, wait_for
from fakes import attempts, claimed, compute, drive, key, small_grid

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import sweep
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.run.local import LocalPool

GRIDS, KILLS = 9, 6
HERE = Path(__file__).parents[1]
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Rows by job of a run that nobody disturbs."""
    root, pool = tmp_path_factory.mktemp("whole"), LocalPool(["", ""])
    drive(small_grid(), root, pool, compute)
    pool.close()
    found = rows(root)
    assert len(found) == 12
    return found


def rows(root):
    store = Store(root / "cache")
    return {name: store.rows(name) for name in store.keys()}  # noqa: SIM118 - a store is no mapping


def start(root):
    return subprocess.Popen(
        [sys.executable, str(HERE / "drive_fakes.py"), "grid", str(root)],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.tried("a random worker or driver of a running grid is killed (SIGKILL)", KILLS)
@linux
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[pytest.mark.slow] * (s > 1)) for s in range(GRIDS)]
)
def test_a_grid_survives_kills_of_workers_and_drivers(tmp_path, expected, seed):
    draw, killed, driver = random.Random(seed), 0, start(tmp_path)
    try:
        while killed < KILLS:
            time.sleep(draw.uniform(0, 0.15))
            if driver.poll() is not None:  # done before its time: one result less
                driver.communicate()
                (tmp_path / "cache" / draw.choice(sorted(expected))).joinpath("rows.json").unlink()
                remove_broken(tmp_path)
                driver = start(tmp_path)
            workers = sorted(descendants(driver.pid, guards=False))
            if workers and draw.random() < 0.6:
                os.kill(draw.choice(workers), signal.SIGKILL)
                killed += 1
            elif attempts(tmp_path, "victim 0"):
                driver.kill()
                driver.communicate()
                wait_for(lambda workers=workers: not alive(workers), seconds=5)
                driver = start(tmp_path)
                killed += 1
        for _ in range(3):  # a job that was hit three times has failed until it is tried again
            _, errors = driver.communicate(timeout=60)
            if driver.returncode == 0:
                break
            assert driver.returncode == 1, errors
            driver = start(tmp_path)
        assert driver.returncode == 0
    finally:
        driver.kill()
    assert rows(tmp_path) == expected
    cache = Store(tmp_path / "cache")
    with Claims(cache.root) as claims:
        sweep(cache, claims)
    assert not claimed(cache.root) and not list(cache.drafts.iterdir())


def remove_broken(root):
    store = Store(root / "cache")
    for name in store.keys():  # noqa: SIM118 - a store is no mapping
        if not (store.root / name / "rows.json").exists():
            store.remove(name)


@pytest.mark.tried("several drivers run one grid on one cache", 1)
@pytest.mark.parametrize("count", [2, 3])
def test_several_drivers_on_one_cache_run_each_job_once_and_all_end_complete(
    tmp_path, expected, count
):
    drivers = [start(tmp_path) for _ in range(count)]
    try:
        for driver in drivers:
            _, errors = driver.communicate(timeout=60)
            assert driver.returncode == 0, errors
    finally:
        for driver in drivers:
            driver.kill()
    assert rows(tmp_path) == expected
    assert {attempts(tmp_path, job.name) for job in small_grid()} == {1}


@pytest.mark.tried("one of two drivers on a cache is killed", 1)
@linux
def test_a_driver_takes_over_from_one_that_is_killed_beside_it(tmp_path, expected):
    first = start(tmp_path)
    wait_for(lambda: attempts(tmp_path, "victim 0"))
    second = start(tmp_path)
    try:
        wait_for(lambda: len(rows(tmp_path)) > 2)
        first.kill()
        first.communicate()
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
    finally:
        first.kill()
        second.kill()
    assert rows(tmp_path) == expected


def test_a_grid_on_a_disk_that_fills_up_goes_on_when_there_is_room(tmp_path, expected, monkeypatch):
    real, room = Store.draft, iter([True] * 5)

    def draft(store, name):
        if not next(room, False):
            raise OSError(28, "No space left on device")
        return real(store, name)

    monkeypatch.setattr(Store, "draft", draft)
    from fakes import Threads

    pool = Threads(2)
    _, driver = drive(small_grid(), tmp_path, pool, compute)
    assert "the disk is full" in driver.stopped and len(driver.left()) == 7
    monkeypatch.undo()
    _, driver = drive(small_grid(), tmp_path, pool, compute)
    pool.close()
    assert not driver.left() and not driver.stopped
    assert rows(tmp_path) == expected and set(expected) == {key(job) for job in small_grid()}
