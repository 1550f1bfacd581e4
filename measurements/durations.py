"""Write `benchmark/run/priors.csv`, what estimates start from: `python measurements/durations.py`.

Seconds of the jobs behind the committed rows, scoring excluded, with the work that each had to do.
Then print how good estimates are on the committed CIFAR-10 grid: from these priors without that
grid, from all of them, and after half of its jobs.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from sau_bench.benchmark.cache.step import Plan
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.grid.plan import make_plan
from sau_bench.benchmark.jobs.flops import training_flops
from sau_bench.benchmark.run.durations import PRIORS, Durations, Work

ROOT = Path(__file__).parents[1]
COLUMNS = ("kind", "method", "dataset", "architecture", "attack", "passes", "flops", "seconds")
GRID = "cifar10_cpu"


def measured(name: str) -> tuple[Plan, dict[str, tuple[float, str]]]:
    """The plan of a committed grid, and by key the seconds and the device of each job with rows."""
    plan = make_plan(make_grid(read(ROOT / "configs" / f"{name}.yaml")).jobs(), training_flops)
    rows = pd.read_csv(ROOT / "results" / name / "rows.csv")
    last = rows.sort_values("seconds").groupby("key").last()
    jobs = zip(last.index, last["seconds"], last["device"], strict=True)
    return plan, {key: (float(seconds), str(device)) for key, seconds, device in jobs}


def works(name: str) -> list[tuple[Work, float, str]]:
    """(work, seconds, device) of the measured jobs of a committed grid, in its order."""
    plan, seconds = measured(name)
    return [
        (Work.of(step.description, step.flops), *seconds[key])
        for key, step in plan.items()
        if key in seconds
    ]


def committed() -> list[str]:
    """Names of the grids that have both a config and rows."""
    files = sorted((ROOT / "configs").glob("*.yaml"))
    return [file.stem for file in files if (ROOT / "results" / file.stem / "rows.csv").is_file()]


def write(file: Path) -> None:
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow((*COLUMNS, "device"))
        for name in committed():
            for work, seconds, device in works(name):
                names = work.kind, work.method, work.dataset, work.architecture, work.attack
                table.writerow((*names, work.passes, work.flops, seconds, device))


def estimate(
    prior: list[tuple[Work, float, str]], device: str, done: int = 0
) -> tuple[float, float]:
    """(expected, measured) seconds of the grid's jobs but for the first `done` of every two."""
    plan, seconds = measured(GRID)
    durations = Durations(device)
    for work, took, where in prior:
        durations.learn(work, took, where)
    keys = [key for key in plan if key in seconds]
    for key in keys[::2][:done]:
        durations.learn(Work.of(plan[key].description, plan[key].flops), *seconds[key])
    left = [key for key in keys if key not in keys[::2][:done]]
    return sum(durations.seconds(plan[k]) for k in left), sum(seconds[k][0] for k in left)


def main() -> None:
    write(PRIORS)
    device = "1-thread AMD EPYC"
    others = [entry for name in committed() if name != GRID for entry in works(name)]
    every = others + works(GRID)
    half = len(works(GRID)) // 2
    for what, prior, done in (
        ("no prior", [], 0),
        ("other committed grids", others, 0),
        ("all committed rows", every, 0),
        ("other committed grids, half of the jobs", others, half),
        ("all committed rows, half of the jobs", every, half),
    ):
        expected, took = estimate(prior, device, done)
        print(f"{what}: expected {expected:.0f} s, measured {took:.0f} s, {expected / took:.2f}")


if __name__ == "__main__":
    main()
