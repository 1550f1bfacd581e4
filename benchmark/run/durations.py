"""How long jobs take, and in which order they start.

Durations are hints, learned from finished jobs: they never enter a job's key or its result. A job
is described by its canonical JSON alone, so that finished jobs of any grid can be read back.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.cache.store import Store

EPOCH = 10.0
"""Seconds for one pass over a training set, before anything is measured: about that of 50,000
images of 32 x 32 pixels through a ResNet-18 on one data-centre GPU."""
REST = 20.0
"""Seconds for a job beside its epochs."""


@dataclass(frozen=True)
class Step:
    """A job with what the driver has to know of it, hashed once.

    needs: keys of jobs whose results it reads. row: key of the victim whose row of the tables the
    job belongs to.
    """

    key: str
    job: Any
    canonical: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    row: str = ""

    def __str__(self) -> str:
        return str(self.job)

    @cached_property
    def traits(self) -> tuple[str, ...]:
        return traits(self.canonical)

    @cached_property
    def guess(self) -> float:
        return guess(self.canonical)


Plan = dict[str, Step]
"""Steps by key, in order of preference."""


def traits(canonical: Mapping[str, Any]) -> tuple[str, ...]:
    """What a job's duration depends on, from the most telling to the least."""
    victim = canonical.get("victim", canonical)
    kind = str(canonical.get("job"))
    method = _plugin(canonical, "defense", "attack", "asset")
    dataset, model, attack = (_plugin(victim, name) for name in ("dataset", "model", "attack"))
    chain = (
        ("cell", kind, method, dataset, model, attack),
        ("place", kind, method, dataset, model),
        ("method", kind, method),
        ("dataset", kind, dataset),
        ("kind", kind),
        ("job",),
    )
    return tuple(" ".join(trait) for trait in chain)


MEASURED = 3
"""The first so many traits are of the same kind of job and method: a measurement, not a guess."""


def guess(canonical: Mapping[str, Any]) -> float:
    """Seconds by epochs alone; only the ratio of two guesses is of use, see `Durations`."""
    if "defense" in canonical:
        share = float(canonical.get("clean_ratio", 1))
        return REST + EPOCH * share * _epochs(canonical["defense"])
    return REST + EPOCH * _epochs(canonical.get("recipe", {}))


class Durations:
    """Expected seconds of jobs.

    What is learned is by how much a job's kind differs from its guess, so that a change of epochs
    is not a change of kind and one measurement corrects the guesses of all others. device: whose
    measurements are preferred to those of any other one, as in rows.
    """

    def __init__(self, device: str = "") -> None:
        self.device = _kind(device)
        self._ratios: dict[tuple[str, str], tuple[int, float]] = {}
        self._known: dict[tuple[str, float], tuple[float, bool]] = {}

    def learn(self, canonical: Mapping[str, Any], seconds: float, device: str) -> None:
        """A finished job took so long on the device."""
        ratio = max(seconds, 1e-3) / guess(canonical)
        for where in {_kind(device), ""}:
            for trait in traits(canonical):
                count, total = self._ratios.get((where, trait), (0, 0.0))
                self._ratios[where, trait] = count + 1, total + ratio
        self._known.clear()

    def seconds(self, step: Step) -> float:
        return self._expect(step)[0]

    def is_measured(self, step: Step) -> bool:
        """Whether the expectation rests on jobs of the same kind and method on this device."""
        return self._expect(step)[1]

    def _expect(self, step: Step) -> tuple[float, bool]:
        name = step.traits[0], step.guess
        if name not in self._known:
            self._known[name] = self._look_up(step)
        return self._known[name]

    def _look_up(self, step: Step) -> tuple[float, bool]:
        for where in dict.fromkeys((self.device, "")):
            for rank, trait in enumerate(step.traits):
                if (where, trait) in self._ratios:
                    count, total = self._ratios[where, trait]
                    return step.guess * total / count, where == self.device and rank < MEASURED
        return step.guess, False


def learned(store: Store, device: str) -> Durations:
    """From the rows of all finished jobs of a cache."""
    durations = Durations(device)
    for key in store.keys():  # noqa: SIM118 - a store is no mapping
        folder = store.root / key
        try:
            canonical = json.loads((folder / "job.json").read_text())
            rows = json.loads((folder / "rows.json").read_text())
            seconds = max(row["seconds"] for row in rows)
            durations.learn(canonical, seconds, rows[0].get("device", ""))
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


def _plugin(canonical: Mapping[str, Any], *names: str) -> str:
    entry: Any = next((canonical[name] for name in names if name in canonical), None)
    return str(entry.get("plugin") or entry.get("asset")) if isinstance(entry, Mapping) else ""


def _epochs(value: Any) -> float:
    """All epochs of a method: of its own, of its recipe, of the network it trains before."""
    if not isinstance(value, Mapping):
        return 0.0
    own = value.get("epochs", 0)
    return float(own) + sum(_epochs(entry) for entry in value.values())


def _kind(device: str) -> str:
    return re.sub(r"^\d+-thread ", "", device)
