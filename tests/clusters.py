"""A Dask cluster of separate processes on this machine, for tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


class Cluster:
    """One scheduler and its workers, each of them a process tree of its own."""

    def __init__(self, folder):
        pytest.importorskip("distributed")
        self.folder, self.processes = folder, []
        self.file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--scheduler-file", str(self.file), "--host", "127.0.0.1",
            "--port", "0", "--no-dashboard",
        )  # fmt: skip
        wait_for(self.file.exists)

    def worker(self, *more, resource="GPU=1", **environment):
        return self._start(
            "worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard",
            "--resources", resource, "--memory-limit", "0", "--death-timeout", "20", *more,
            **environment,
        )  # fmt: skip

    def _start(self, what, *arguments, **environment):
        log = (self.folder / f"{what}.{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", what, *arguments],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "PYTHONPATH": PATHS,
                "OMP_NUM_THREADS": "1",
                "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
                **environment,
            },
            start_new_session=True,
            cwd=self.folder,
        )
        log.close()
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            kill(process)


def kill(process):
    """The process with its group, a Dask nanny with its worker, as a machine that goes down."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.02)
    return value


def descendants(pid, guards=True):
    """Processes below one, by parents in /proc; not loky's tracker, which ends with its owner.

    guards: with those that end what a worker leaves behind.
    """
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if fields[0] not in "ZX" and b"resource_tracker" not in command:
                if not guards and b"kill -KILL 0" in command:
                    continue
                parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return set(found[1:])


def alive(pids):
    def lives(pid):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    return {pid for pid in pids if lives(pid)}
