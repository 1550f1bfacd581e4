"""How long jobs take, and in which order they start.

Durations are hints: they never enter a job's key or its result. They start from the committed rows
of this repository and are learned from finished jobs of the cache and of the run.
"""

from __future__ import annotations

import csv
import heapq
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Store

PRIORS = Path(__file__).with_name("priors.csv")
"""Seconds of the jobs behind the committed rows, written by `measurements/durations.py`."""
PASS = 1.7e14
"""Operations of a training pass over 50,000 images of 32 x 32 pixels through a ResNet-18: what a
pass counts for when the network is not known."""
SPEED = {"gpu": 1.7e13, "cpu": 1e11}
"""Operations per second of one job, before anything is measured: a data-centre GPU in fp32; one or
two cores of a server, between fp32 and bf16."""
REST = 2.0
"""Seconds for a job beside its passes."""
ALIKE = 10.0
"""A measurement counts for jobs with up to so many times more or less work: small ones are mostly
overhead, and say nothing of large ones."""
DOUBT = 3.0
"""A guess may be off by this factor."""


@dataclass(frozen=True)
class Work:
    """What the duration of a job depends on.

    kind, method, dataset, architecture, attack: names, see `benchmark.cache.description`. passes:
    over the training set, as far as the job's fields tell. flops: operations of a pass; 0 if
    unknown.
    """

    kind: str
    method: str
    dataset: str
    architecture: str
    attack: str
    passes: float
    flops: float

    @classmethod
    def of(cls, d: Description, flops: float) -> Work:
        """The work of a job by its description."""
        return cls(d.kind, d.method, d.dataset, d.architecture, d.attack, d.passes, flops)

    @property
    def traits(self) -> tuple[tuple[str, ...], ...]:
        """What other jobs may have in common with this one, from the most telling to the least."""
        place = self.kind, self.method, self.dataset, self.architecture
        return (*place, self.attack), place, place[:2], (self.kind, self.dataset), (self.kind,), ()

    def seconds(self, speed: float) -> float:
        """Seconds at so many operations per second."""
        return REST + self.passes * (self.flops or PASS) / speed


MEASURED = 2
"""The first so many traits are of the same method, dataset and network: a measurement."""


class Durations:
    """Expected seconds of jobs on one device.

    What is learned is by which factor jobs differ from the time that their arithmetic takes at a
    typical speed of the device, so that images, pixels, network and epochs are accounted for. Of
    measured jobs those count that have most in common with the one in question. device: as in rows;
    measurements of another one count in proportion to typical speeds.
    """

    def __init__(self, device: str = "") -> None:
        self.device = _kind(device)
        self._samples: dict[str, dict[tuple[str, ...], list[tuple[float, float]]]] = {}
        self._known: dict[Work, tuple[float, bool]] = {}
        self._works: dict[str, Work] = {}

    def learn(self, work: Work, seconds: float, device: str | None = None) -> None:
        """A finished job took so long on a device, by default on this one."""
        where = self.device if device is None else _kind(device)
        expected = work.seconds(_speed(where))
        sample = expected, max(seconds, 1e-3) / expected
        samples = self._samples.setdefault(where, defaultdict(list))
        for trait in work.traits:
            samples[trait].append(sample)
        self._known.clear()

    def seconds(self, step: Step) -> float:
        return self._expect(step)[0]

    def is_measured(self, step: Step) -> bool:
        """Whether jobs of the same method, dataset and network were measured on this device."""
        return self._expect(step)[1]

    def range(self, steps: Iterable[Step]) -> tuple[float, float]:
        """Seconds that the jobs take together, at least and at most: guesses may be off."""
        least = most = 0.0
        for step in steps:
            seconds, is_measured = self._expect(step)
            doubt = 1.0 if is_measured else DOUBT
            least, most = least + seconds / doubt, most + seconds * doubt
        return least, most

    def _expect(self, step: Step) -> tuple[float, bool]:
        work = self._works.get(step.key)
        if work is None:
            work = self._works[step.key] = Work.of(step.description, step.flops)
        if work not in self._known:
            self._known[work] = self._look_up(work)
        return self._known[work]

    def _look_up(self, work: Work) -> tuple[float, bool]:
        expected = work.seconds(_speed(self.device))
        others = [device for device in self._samples if device != self.device]
        for rank, trait in enumerate(work.traits):
            for device in (self.device, *others):
                there = work.seconds(_speed(device))
                factors = [
                    factor
                    for seconds, factor in self._samples.get(device, {}).get(trait, ())
                    if 1 / ALIKE <= seconds / there <= ALIKE
                ]
                if factors:
                    mean = math.fsum(factors) / len(factors)
                    return expected * mean, device == self.device and rank < MEASURED
        return expected, False


def learned(
    store: Store, device: str, flops: Callable[[Mapping[str, object]], float] | None = None
) -> Durations:
    """From the committed rows and from all finished jobs of a cache.

    flops: operations of a training pass of the job with this canonical JSON. Where they are not
    known (None: counting takes torch) nor are those of steps, committed rows say nothing.
    """
    durations = Durations(device)
    for work, seconds, where in priors() if flops else ():
        durations.learn(work, seconds, where)
    for key in store.keys():  # noqa: SIM118 - a store is no mapping
        folder = store.root / key
        if not all((folder / name).is_file() for name in ("job.json", "rows.json")):
            continue  # a pipe would never end
        try:
            description = Description(json.loads((folder / "job.json").read_text()))
            rows = json.loads((folder / "rows.json").read_text())
            seconds = max(row["seconds"] for row in rows)
            work = Work.of(description, flops(description.canonical) if flops else 0.0)
            durations.learn(work, seconds, rows[0].get("device", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # only a hint is lost; whoever needs the folder will say what is wrong with it
    return durations


def priors(file: Path = PRIORS) -> list[tuple[Work, float, str]]:
    """(work, seconds, device) of the jobs behind the committed rows."""

    def work(line: Mapping[str, str]) -> Work:
        names = ("kind", "method", "dataset", "architecture", "attack")
        kind, method, dataset, architecture, attack = (line[name] for name in names)
        passes, flops = float(line["passes"]), float(line["flops"])
        return Work(kind, method, dataset, architecture, attack, passes, flops)

    with file.open(newline="") as stream:
        return [
            (work(line), float(line["seconds"]), line["device"]) for line in csv.DictReader(stream)
        ]


def chains(plan: Plan, open_keys: Collection[str], durations: Durations) -> dict[str, float]:
    """Seconds of the longest chain of open jobs that begins with each job.

    plan: needs before those that need them.
    """
    below: dict[str, float] = defaultdict(float)
    chain: dict[str, float] = {}
    for key in reversed(plan):
        if key in open_keys:
            chain[key] = durations.seconds(plan[key]) + below[key]
            for need in plan[key].needs:
                below[need] = max(below[need], chain[key])
    return chain


def row_order(plan: Plan, open_keys: Collection[str], durations: Durations) -> dict[str, int]:
    """The rank of the row that each job helps to complete: the row with least left comes first.

    A job that several rows need counts for each of them, and has the rank of the first.
    """
    rows_of: dict[str, set[str]] = defaultdict(set)
    left: dict[str, float] = defaultdict(float)
    for key in reversed(plan):
        if key in open_keys:
            if plan[key].row:
                rows_of[key].add(plan[key].row)
            for need in plan[key].needs:
                rows_of[need] |= rows_of[key]
            for row in rows_of[key]:
                left[row] += durations.seconds(plan[key])
    place = {key: i for i, key in enumerate(plan)}
    by_need = sorted(left, key=lambda row: (left[row], place.get(row, 0)))
    ranks = {row: rank for rank, row in enumerate(by_need)}
    return {key: min((ranks[row] for row in rows), default=0) for key, rows in rows_of.items()}


def wall_time(
    plan: Plan, started: Mapping[str, float], open_keys: Iterable[str], slots: int, d: Durations
) -> float:
    """Seconds until all is done on so many slots, if each job takes as long as expected.

    started: seconds that the running jobs have run for. open_keys: jobs that have not started.
    """
    waiting = set(open_keys)
    chain = chains(plan, waiting, d)
    missing = {k: {n for n in plan[k].needs if n in waiting or n in started} for k in waiting}
    after: dict[str, list[str]] = defaultdict(list)
    for key, needs in missing.items():
        for need in needs:
            after[need].append(key)
    running = [(max(0.0, d.seconds(plan[k]) - ran), k) for k, ran in started.items()]
    heapq.heapify(running)
    ready = [(-chain[k], k) for k in waiting if not missing[k]]
    heapq.heapify(ready)
    now = 0.0
    while ready or running:
        while ready and len(running) < max(1, slots):
            _, key = heapq.heappop(ready)
            heapq.heappush(running, (now + d.seconds(plan[key]), key))
        now, key = heapq.heappop(running)
        for name in after[key]:
            missing[name].discard(key)
            if not missing[name]:
                heapq.heappush(ready, (-chain[name], name))
    return now


def _kind(device: str) -> str:
    """The hardware of a row's device, whatever the number of threads: "cpu NAME" or "gpu NAME"."""
    name, threads = re.subn(r"^\d+-thread ", "", device)
    return f"{'cpu' if threads else 'gpu'} {name}"


def _speed(kind: str) -> float:
    return SPEED[kind.partition(" ")[0]]
