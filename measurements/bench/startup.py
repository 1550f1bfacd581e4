"""Start-up: the command line in fresh processes."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from measurements.bench.setting import Item, Record, Setting
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import Grid, make_grid
from sau_bench.benchmark.jobs.job import DefenseJob, Job

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "cifar10_cpu.yaml"
DEFENSES = ["ft", "at", "fp", "nc", "nad", "anp", "ep", "i_bau", "sau"]
ATTACKS = ["badnets", "blended", "sig"]
PER_SEED = len(ATTACKS) * (1 + len(DEFENSES))
"""Jobs of a cached grid for each of its seeds."""
ROUNDS = 10
"""Rows of a job that yields rounds: 100 rounds, every tenth scored."""


def cached_grid(folder: Path, jobs: int) -> list[str]:
    """Make a grid all of whose jobs are in a cache, with invented rows; its command-line arguments.

    jobs: a multiple of `PER_SEED`.
    """
    config = folder / f"cached{jobs}.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "datasets": ["digits"],
                "models": ["small_cnn"],
                "attacks": ATTACKS,
                "defenses": DEFENSES,
                "seeds": list(range(jobs // PER_SEED)),
            }
        )
    )
    cache = folder / f"cache{jobs}"
    store = Store(cache)
    for job in all_jobs(make_grid(read(config))):
        with store.draft(job.key) as draft:
            draft.write_json("job.json", job.identity)
            draft.write_json("texts.json", job.texts)
            draft.write_json("rows.json", invented_rows(job))
    return [str(config), "--results", str(folder / "results"), "--cache", str(cache)]


@lru_cache
def finished_grid(jobs: int) -> tuple[str, ...]:
    """`cached_grid` in a folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return tuple(cached_grid(folder, jobs))


def all_jobs(grid: Grid) -> list[Job]:
    return [defended or victim for victim, defended in grid.cells()]


def invented_rows(job: Job) -> list[dict[str, Any]]:
    """Rows of plausible form; their numbers mean nothing."""
    common = {
        "acc": 0.9, "asr": 0.05, "racc": 0.8, "n_clean": 360, "n_poisoned": 318,
        "poison_ratio": 0.1, "status": "ok", "seconds": 1.0, "peak_mib": 900.0,
        "device": "invented", "versions": "invented",
    }  # fmt: skip
    if not isinstance(job, DefenseJob):
        return [common | {"kind": "victim", "step": 0, "asr": 0.99}]
    values = job.defense.settings or [None] * ROUNDS
    return [
        common | {"kind": job.defense.yields, "step": step, "value": value}
        for step, value in enumerate(values, start=1)
    ]


def measure_command(name: str, words: Sequence[str], setting: Setting, seconds: float) -> Record:
    """Wall time of a command in a fresh process: the median of up to five after a first one.

    words: "{results}" stands for a folder with the committed rows of a grid, "{cached}" for a
    finished grid of 300 jobs.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-X", "importtime"]
        for word in words:
            if word == "{cached}":
                command += finished_grid(300)
            elif word == "{results}":
                command += [str(CONFIG), "--results", str(committed(folder))]
            else:
                command.append(word)
        _, imported = run_process(command)
        plain = [word for word in command if word not in ("-X", "importtime")]
        end = time.perf_counter() + seconds
        taken: list[float] = []
        while not taken or (len(taken) < 5 and time.perf_counter() + taken[-1] < end):
            taken.append(run_process(plain)[0])
    median = sorted(taken)[len(taken) // 2]
    return Record(
        group="start-up", name=name, unit="s", product=median, repeats=len(taken),
        slowest=max(taken) / median, fastest=min(taken) / median,
        # Stand-ins for torch have no compiled part.
        note="imports torch" if " torch._C\n" in imported else "",
    )  # fmt: skip


def committed(folder: Path) -> Path:
    """A results folder with the rows of the committed grid alone."""
    rows = Path("results", CONFIG.stem, "rows.csv")
    (folder / rows).parent.mkdir(parents=True)
    shutil.copy(ROOT / rows, folder / rows)
    return folder / "results"


def run_process(command: Sequence[str]) -> tuple[float, str]:
    """Seconds of a process, and what it wrote to standard error.

    Raises:
        RuntimeError: it failed; holds the end of what it wrote.
    """
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}"
        )
    return seconds, done.stderr


def command_item(name: str, *words: str) -> Item:
    return Item("start-up", name, 4, partial(measure_command, name, words))


VERB = str(ROOT / "run_grid.py")
STARTUP = [
    command_item("python", "-c", "pass"),
    command_item("python with torch", "-c", "import torch"),
    command_item("help", VERB, "--help"),
    command_item("list defenses", VERB, "list", "defenses"),
    command_item("report", VERB, "report", "{results}"),
    command_item("status, 300 cached jobs", VERB, "status", "{cached}"),
    command_item("run, 300 cached jobs", VERB, "run", "{cached}"),
]
