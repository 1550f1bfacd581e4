"""Jobs that train nothing, for the tests of the engine. Workers import this: it must stay light."""

import errno
import os
import signal
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.step import Step
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.canonical import job_key
from sau_bench.benchmark.run.driver import Driver
from sau_bench.benchmark.run.pool import Pool


@dataclass(frozen=True)
class Fake:
    """A job by name; what it does is written in the name."""

    name: str
    need: "Fake | None" = None
    recipe: float = 0

    def canonical(self):
        need = {"need": key(self.need)} if self.need else {}
        return {"job": self.name, "recipe": {"epochs": self.recipe}, **need}

    def __str__(self):
        return self.name


class Unsendable(Fake):
    """A job that cannot be pickled, or cannot be unpickled."""

    def __reduce__(self):
        if self.name == "unsendable":
            raise TypeError("this does not travel")
        return refuse, (self.name,)


def refuse(name):
    raise ImportError(f"{name}: no such module here")


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


def key(job):
    return job_key(job.canonical())


def steps(jobs):
    plan = {}

    def add(job):
        if job.need:
            add(job.need)
        needs = (key(job.need),) if job.need else ()
        row = needs[0] if needs else key(job)
        description = Description(job.canonical())
        step = Step(key(job), job.name, description, job=job, needs=needs, row=row)
        plan.setdefault(key(job), step)

    for job in jobs:
        add(job)
    return plan


def act(job, root):
    """Do what the job's name says, then publish how the worker looks from inside."""
    store, name = Store(root / "cache"), job.name
    (root / f"{name}.worker").write_text(str(os.getpid()))
    with (root / f"{name}.attempts").open("a") as file:  # last: tests wait for it
        file.write("x")
    first = attempts(root, name) == 1
    start = time.time()
    with store.draft(key(job)) as draft:
        draft.write_json("job.json", job.canonical())
        (draft.folder / "log.jsonl").write_text(f"{name} begins\n")
        if job.need:
            store.rows(key(job.need))
        if name.startswith("raise"):
            raise ValueError(f"{name} is bad\nin two lines")
        if name.startswith("die always") or (name.startswith("die once") and first):
            os._exit(9)
        if name.startswith("kill once") and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("oom always") or (name.startswith("oom once") and first):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if name.startswith("full"):
            raise OSError(errno.ENOSPC, "No space left on device")
        if name.startswith("hang") or (name.startswith("slow once") and first):
            time.sleep(600)
        if name.startswith("nap"):
            time.sleep(float(name.split()[1]))
        row = {
            "pid": os.getpid(),
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "span": [start, time.time()],
        }
        draft.write_json("rows.json", [row])


def compute(job, root):
    """Publish a value that depends on the job's name and on what it needs, and on nothing else."""
    store = Store(root / "cache")
    with (root / f"{job.name}.attempts").open("a") as file:
        file.write("x")
    value = store.rows(key(job.need))[0]["value"] if job.need else ""
    with store.draft(key(job)) as draft:
        time.sleep(0.05)
        draft.write_json("job.json", job.canonical())
        draft.write_json("rows.json", [{"value": job_key(value + job.name)}])


def small_grid(victims=3, defenses=3):
    made = [Fake(f"victim {i}") for i in range(victims)]
    return made + [Fake(f"{one} defense {i}", one) for one in made for i in range(defenses)]


def attempts(root, name):
    file = root / f"{name}.attempts"
    return file.stat().st_size if file.exists() else 0


def claimed(cache):
    return {file.name for file in (cache / "claims").iterdir()}


def row(root, job):
    return Store(root / "cache").rows(key(job))[0]


class Threads(Pool):
    """A pool of threads that counts."""

    def __init__(self, slots):
        self.count, self.threads, self.live = slots, ThreadPoolExecutor(slots + 4), set()

    def slots(self):
        return self.count

    def free(self):
        return self.count - sum(not future.done() for future in self.live)

    def submit(self, function, /, *arguments):
        future = self.threads.submit(function, *arguments)
        self.live.add(future)
        return future

    def close(self):
        self.threads.shutdown()


def drive(jobs, root, pool, work=act, **more):
    """Run the jobs; (outcomes, driver)."""
    plan = jobs if isinstance(jobs, dict) else steps(jobs)
    store = Store(root / "cache")
    outcomes, work = [], partial(work, root=Path(root))
    with Claims(root / "cache") as claims:
        driver = Driver(plan, store, pool, work, claims, outcomes.append, **more)
        driver.run()
        return outcomes, driver


def trace(jobs, root, pool, work=act, **more):
    """Run the jobs; (states by job name in order, details by job name)."""
    states, details = defaultdict(list), {}
    for outcome in drive(jobs, root, pool, work, **more)[0]:
        name = str(outcome.step)
        states[name].append(outcome.state)
        if outcome.detail:
            details[name] = outcome.detail
    return dict(states), details
