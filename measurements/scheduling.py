"""Cost and quality of the scheduler: `python measurements/scheduling.py`, about 2 min.

Overhead: no-op jobs. Quality: the paper's grid (7 attacks x 8 defenses x 3 datasets x 2
architectures) with sleeping jobs, as the ratio of its makespan to the lower bound max(total work /
slots, longest chain). Durations are guesses for one data-centre GPU, each job's own off by about a
tenth. "known": the scheduler has seen such jobs before; "unknown": it learns while it runs. Modes:
"virtual" drives the same loop on a simulated clock; "processes" sleeps in real workers. CSV.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.canonical import job_key
from sau_bench.benchmark.run.driver import Driver, Outcome
from sau_bench.benchmark.run.durations import Durations, Work, chains
from sau_bench.benchmark.run.local import LocalPool
from sau_bench.benchmark.run.pool import Pool

EPOCHS = {"cifar10": 100, "gtsrb": 50, "tiny": 200}
EPOCH = {"cifar10": 10.0, "gtsrb": 8.0, "tiny": 60.0}
MODELS = {"preact_resnet18": 1.0, "vgg19": 0.7}
ATTACKS = {
    **{"badnets": 1.0, "blended": 1.0, "input_aware": 3.0, "lf": 1.0, "sig": 1.0},
    **{"ssba": 1.0, "wanet": 1.6},
}
ASSETS = {"lf": 0.5, "ssba": 0.4}
"""Share of a victim's training that making the attack's asset takes."""
DEFENSES = {
    **{"ft": 0.06, "anp": 0.3, "fp": 0.12, "nc": 0.6, "nad": 0.1, "ep": 0.02},
    **{"i_bau": 0.2, "sau": 0.8},
}
"""Share of a plain victim's training."""
COLUMNS = (
    *("what", "mode", "slots", "durations", "jobs", "work_s", "longest_s", "bound_s"),
    *("makespan_s", "ratio", "ms_per_job"),
)


@dataclass(frozen=True)
class Sleep:
    """A job that takes its time and nothing else."""

    key: str
    seconds: float


class Virtual(Pool):
    """Runs jobs on a clock of its own, in no time."""

    def __init__(self, count: int) -> None:
        self.count, self.clock = count, 0.0
        self.queue: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []
        self.number = 0

    def slots(self) -> int:
        return self.count

    def free(self) -> int:
        return self.count - len(self.queue)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        _, job = pickle.loads(arguments[0])
        self.number += 1
        end = self.clock + job.seconds
        heapq.heappush(self.queue, (end, self.number, future, partial(function, *arguments)))
        return future

    def close(self) -> None:
        """There is nothing to end."""

    def wait(self, futures: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        self.clock, _, future, call = heapq.heappop(self.queue)
        future.set_result(call())
        return {future}

    def now(self) -> float:
        return self.clock


def sleep(job: Sleep, cache: Path, scale: float) -> None:
    time.sleep(job.seconds * scale)
    (cache / job.key).mkdir()


def paper(scale: float) -> Plan:
    """The grid's steps, their durations in seconds times the scale."""
    draw, plan = random.Random(0), {}

    def add(canonical: dict[str, Any], seconds: float, needs: tuple[str, ...], row: str) -> str:
        key = job_key(canonical)
        job = Sleep(key, seconds * scale * draw.lognormvariate(0, 0.1))
        description = Description(canonical)
        plan[key] = Step(key, key, description, job=job, needs=needs, row=row or key)
        return key

    for dataset, model, attack in product(EPOCHS, MODELS, ATTACKS):
        plain = EPOCHS[dataset] * EPOCH[dataset] * MODELS[model]
        place = {"dataset": {"plugin": dataset}, "architecture": {"plugin": model}}
        recipe = {"recipe": {"epochs": EPOCHS[dataset]}}
        needs: tuple[str, ...] = ()
        if attack in ASSETS:
            asset = {"job": "asset", **place, "asset": {"asset": attack}, **recipe}
            needs = (add(asset, ASSETS[attack] * plain, (), ""),)
        victim = {"job": "attack", **place, "attack": {"plugin": attack}, **recipe}
        row = add(victim, ATTACKS[attack] * plain, needs, "")
        for defense, share in DEFENSES.items():
            method = {"plugin": defense, "recipe": {"epochs": 100}}
            job = {"job": "defense", "victim": victim, "defense": method, "clean_ratio": 0.05}
            # The work of trigger inversion grows with the number of classes.
            classes = 5 if defense == "nc" and dataset != "cifar10" else 1
            add(job, share * plain * classes, (row,), row)
    return plan


def known(plan: Plan) -> Durations:
    """What a scheduler knows that has seen such jobs before, with noise of their own."""
    draw, durations = random.Random(1), Durations()
    for step in plan.values():
        work = Work.of(step.description, step.flops)
        durations.learn(work, step.job.seconds * draw.lognormvariate(0, 0.1))
    return durations


def bound(plan: Plan, slots: int) -> tuple[float, float, float]:
    """(total work, longest chain, lower bound of the makespan), in seconds."""

    class Exact(Durations):
        def seconds(self, step: Step) -> float:
            return float(step.job.seconds)

    work = sum(step.job.seconds for step in plan.values())
    longest = max(chains(plan, plan, Exact()).values())
    return work, longest, max(work / slots, longest)


def makespan(plan: Plan, pool: Pool, durations: Durations, scale: float) -> tuple[float, float]:
    """Seconds by the pool's clock, and really; without the start of workers."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        with Claims(store.root) as claims:
            work = partial(sleep, cache=store.root, scale=scale)
            outcomes: list[Outcome] = []
            driver = Driver(plan, store, pool, work, claims, outcomes.append, durations)
            if isinstance(pool, LocalPool):
                pool.wait([pool.submit(time.sleep, 0.5) for _ in range(pool.slots())], 60)
                time.sleep(0.5)
            start, began = pool.now(), time.monotonic()
            driver.run()
            done = sum(outcome.state == "done" for outcome in outcomes)
            assert done == len(plan), f"{done} of {len(plan)} jobs are done"
            return pool.now() - start, time.monotonic() - began


def no_ops(count: int) -> Plan:
    keys = [f"{i:024x}" for i in range(count)]
    return {key: Step(key, key, Description({"i": key}), job=Sleep(key, 0.0)) for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--virtual", action="store_true", help="only what needs no processes")
    parser.add_argument("--seconds", type=float, default=20, help="lower bound of a real run")
    arguments = parser.parse_args()
    table = csv.writer(sys.stdout)
    table.writerow(COLUMNS)

    def write(
        what: str, mode: str, slots: int, durations: str, plan: Plan, took: float, wall: float
    ) -> None:
        work, longest, least = bound(plan, slots)
        numbers = [f"{value:.2f}" for value in (work, longest, least, took)]
        ratio = f"{took / least:.3f}" if least else ""
        cost = f"{1000 * wall / len(plan):.2f}"
        table.writerow([what, mode, slots, durations, len(plan), *numbers, ratio, cost])
        sys.stdout.flush()

    for count in (500, 2000):
        plan = no_ops(count)
        write("no-op", "virtual", 2, "unknown", plan, *makespan(plan, Virtual(2), Durations(), 0))
    if not arguments.virtual:
        plan, pool = no_ops(500), LocalPool(["", ""])
        write("no-op", "processes", 2, "unknown", plan, *makespan(plan, pool, Durations(), 0))
        pool.close()
    for slots, prior in product((2, 4, 8), ("known", "unknown")):
        plan = paper(1.0)
        durations = known(plan) if prior == "known" else Durations()
        write("paper", "virtual", slots, prior, plan, *makespan(plan, Virtual(slots), durations, 0))
    for slots in (2, 4, 8) if not arguments.virtual else ():
        plan = paper(arguments.seconds / bound(paper(1.0), slots)[2])
        pool = LocalPool([""] * slots)
        write("paper", "processes", slots, "known", plan, *makespan(plan, pool, known(plan), 1.0))
        pool.close()


if __name__ == "__main__":
    # Workers import this file by its name, and find nothing in a `__main__` of their own.
    sys.path.insert(0, str(Path(__file__).parent))
    from scheduling import main as run

    run()
