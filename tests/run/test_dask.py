"""The driver on a Dask cluster of separate processes; the grid of test_engine runs on it, too."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clusters import PATHS, Cluster, alive, descendants, kill, wait_for
from fakes import Fake, attempts, drive, key, small_grid

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.run.failures import NoWorkers

pytest.importorskip("distributed")


@pytest.fixture
def own(tmp_path):
    """A cluster without workers, for a test that breaks it."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.close()


@pytest.fixture
def connect():
    from sau_bench.benchmark.run.dask import DaskPool

    pools = []

    def connect(cluster, *more):
        pools.append(DaskPool(str(cluster.file), *more))
        return pools[-1]

    yield connect
    for pool in pools:
        pool.close()


def test_a_worker_that_is_lost_costs_one_retry_and_one_that_joins_takes_part(
    own, connect, tmp_path
):
    workers = [own.worker(), own.worker()]
    pool = connect(own)
    wait_for(lambda: pool.slots() == 2)
    jobs = [Fake(f"nap 0.1{i}") for i in range(8)] + [Fake("slow once", None, 9)]
    late = []

    def lose_one():
        wait_for(lambda: attempts(tmp_path, "slow once"))
        pid = int((tmp_path / "slow once.worker").read_text())
        # The worker, its nanny, and what runs below them: a machine that goes down.
        kill(next(worker for worker in workers if pid in descendants(worker.pid)))
        late.append(own.worker())

    loser = threading.Thread(target=lose_one)
    loser.start()
    outcomes, driver = drive(jobs, tmp_path, pool)
    loser.join()
    assert not driver.left() and {o.state for o in outcomes} <= {"started", "lost", "done"}
    assert attempts(tmp_path, "slow once") == 2
    assert all(attempts(tmp_path, job.name) == 1 for job in jobs[:-1])
    wait_for(lambda: pool.slots() == 2)


def test_a_scheduler_that_is_lost_ends_the_run_and_a_new_cluster_goes_on(own, connect, tmp_path):
    worker = own.worker()
    pool = connect(own)
    jobs = [*small_grid(), Fake("hang")]

    def lose_scheduler():
        wait_for(lambda: attempts(tmp_path, "victim 0"))
        kill(own.scheduler)

    loser = threading.Thread(target=lose_scheduler)
    loser.start()
    with pytest.raises(NoWorkers, match=r"the scheduler at .* is gone"):
        drive(jobs, tmp_path, pool)
    loser.join()
    worker.wait(30)
    done = Store(tmp_path / "cache").keys()
    assert key(jobs[-1]) not in done
    again = tmp_path / "again"
    again.mkdir()
    cluster = Cluster(again)
    try:
        cluster.worker()
        outcomes, driver = drive(jobs[:-1], tmp_path, connect(cluster))
    finally:
        cluster.close()
    assert not driver.left()
    assert sum(outcome.state == "cached" for outcome in outcomes) == len(done)


def test_a_pool_whose_client_has_given_up_can_be_closed(cluster, connect):
    pool = connect(cluster)
    pool.submit(time.sleep, 0.1)
    pool._client.sync(pool._client._close, fast=True)  # what it does without a scheduler
    pool.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_jobs_of_a_driver_that_ends_are_killed_and_the_workers_stay(cluster, tmp_path, number):
    driver = subprocess.Popen(
        [
            *(sys.executable, str(Path(__file__).parents[1] / "drive_fakes.py")),
            *("dask", str(tmp_path), str(cluster.file)),
        ],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: attempts(tmp_path, "hang 0") and attempts(tmp_path, "hang 1"))
        children = {int(f.read_text()) for f in tmp_path.glob("hang *.worker")}
        assert len(alive(children)) == 2
        os.killpg(driver.pid, number)
        assert driver.wait(10) == (130 if number == signal.SIGINT else -9)
        wait_for(lambda: not alive(children), seconds=10)
    finally:
        driver.kill()
    from sau_bench.benchmark.run.dask import DaskPool

    pool = DaskPool(str(cluster.file))
    assert pool.slots() == 2 and pool.submit(os.getenv, "NO_SUCH", "fine").result(30) == "fine"
    pool.close()


def test_a_resource_that_no_worker_offers_is_named_with_those_that_are(cluster, connect):
    wait_for(lambda: connect(cluster).slots())
    with pytest.raises(InputError, match=r"--resource 'slot': .* offered: GPU"):
        connect(cluster, "slot")


CONFIG = "datasets: [digits]\nmodels: [small_cnn]\nattacks: [badnets]\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "--engine dask needs --scheduler"),
        (["--scheduler", "tcp://127.0.0.1:9"], "no scheduler answers at 'tcp://127.0.0.1:9'"),
        (["--scheduler", "no.json"], "there is no scheduler file 'no.json'"),
        (["--scheduler", "what is this"], "no scheduler answers at 'what is this'"),
    ],
)
def test_no_cluster_is_one_line_and_nothing_is_created(tmp_path, capsys, monkeypatch, more, told):
    monkeypatch.setattr("sau_bench.benchmark.run.dask.TIMEOUT", 1)
    config, results = tmp_path / "c.yaml", tmp_path / "results"
    config.write_text(CONFIG)
    run = ["run", str(config), "--results", str(results), "--engine", "dask"]
    assert cli.main([*run, *more]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("error: ") and error.count("\n") == 1
    assert not results.exists()


def test_without_distributed_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "sau_bench.benchmark.run.dask", raising=False)
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG)
    run = ["run", str(config), "--results", str(tmp_path / "results"), "--engine", "dask"]
    assert cli.main([*run, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "pip install distributed" in capsys.readouterr().err
