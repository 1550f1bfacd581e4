"""How long jobs take, and in which order they start.

Durations are hints, learned from finished jobs: they never enter a job's key or its result. A job
is known by its description alone, so that finished jobs of any grid can be read back.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from benchmark.cache.description import Description
from benchmark.cache.step import Plan, Step
from benchmark.cache.store import Store

PASS = 1.7e14
"""Operations of a training pass over 50,000 images of 32 x 32 pixels through a ResNet-18: what a
pass counts for when nothing else is known of it."""
SPEED = {"gpu": 1.7e13, "cpu": 1e11}
"""Operations per second of one job, before anything is measured: a data-centre GPU in fp32; one or
two cores of a server, between fp32 and bf16."""
REST = 20.0
"""Seconds for a job beside its passes."""
MEASURED = 3
"""The first so many traits are of the same kind of job and method: a measurement, not a guess."""


def traits(description: Description) -> tuple[str, ...]:
    """What a job's duration depends on, from the most telling to the least."""
    d = description
    chain = (
        ("cell", d.kind, d.method, d.dataset, d.architecture, d.attack),
        ("place", d.kind, d.method, d.dataset, d.architecture),
        ("method", d.kind, d.method),
        ("dataset", d.kind, d.dataset),
        ("kind", d.kind),
        ("job",),
    )
    return tuple(" ".join(trait) for trait in chain)


def weight(description: Description) -> float:
    """Seconds by passes alone, on a GPU; only the ratio of two of them is of use."""
    return REST + PASS / SPEED["gpu"] * description.passes


class Durations:
    """Expected seconds of jobs on one device.

    What is learned is by how much a job's kind differs from its weight, so that a change of epochs
    is not a change of kind and one measurement corrects the guesses of all others. Before anything
    is measured, a guess counts the operations of the job's passes at a typical speed of the device.
    device: as in rows; measurements of another one count in proportion to typical speeds.
    """

    def __init__(self, device: str = "") -> None:
        self.device = _kind(device)
        self._ratios: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
        self._known: dict[tuple[str, float, float], tuple[float, bool]] = {}

    def learn(self, description: Description, seconds: float, device: str | None = None) -> None:
        """A finished job took so long on a device, by default on this one."""
        ratio = max(seconds, 1e-3) / weight(description)
        ratios = self._ratios[self.device if device is None else _kind(device)]
        for trait in traits(description):
            count, total = ratios.get(trait, (0, 0.0))
            ratios[trait] = count + 1, total + ratio
        self._known.clear()

    def seconds(self, step: Step) -> float:
        return self._expect(step)[0]

    def is_measured(self, step: Step) -> bool:
        """Whether the expectation rests on jobs of the same kind and method on this device."""
        return self._expect(step)[1]

    def _expect(self, step: Step) -> tuple[float, bool]:
        cell = traits(step.description)
        name = cell[0], step.description.passes, step.flops
        if name not in self._known:
            self._known[name] = self._look_up(step, cell)
        return self._known[name]

    def _look_up(self, step: Step, chain: Iterable[str]) -> tuple[float, bool]:
        expected = weight(step.description)
        others = [device for device in self._ratios if device != self.device]
        for device in (self.device, *others):
            slower = _speed(device) / _speed(self.device)
            for rank, trait in enumerate(chain):
                if trait in self._ratios.get(device, {}):
                    count, total = self._ratios[device][trait]
                    is_measured = device == self.device and rank < MEASURED
                    return expected * slower * total / count, is_measured
        operations = (step.flops or PASS) * step.description.passes
        return REST + operations / _speed(self.device), False


def learned(store: Store, device: str) -> Durations:
    """From the rows of all finished jobs of a cache."""
    durations = Durations(device)
    for key in store.keys():  # noqa: SIM118 - a store is no mapping
        folder = store.root / key
        try:
            description = Description(json.loads((folder / "job.json").read_text()))
            rows = json.loads((folder / "rows.json").read_text())
            seconds = max(row["seconds"] for row in rows)
            durations.learn(description, seconds, rows[0].get("device", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # only a hint is lost; whoever needs the folder will say what is wrong with it
    return durations


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
