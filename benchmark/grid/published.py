"""Which published cells the jobs of a grid are: found by what was run, never by a label."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from sau_bench.benchmark.canonical import canonical_json, differences, job_key
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob, Job
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.plugin import IDENTITY, construct
from sau_bench.benchmark.published import Cell, Departure, Paper, Reproduced
from sau_bench.benchmark.rows import UNDEFENDED
from sau_bench.benchmark.train import Recipe

CLEAN_RATIO = 0.05
"""The defender's share of the training set where a paper says nothing else."""
RATIO = 0.1
"""The poisoning ratio that the names of attacks mean."""
PARTS = ("dataset", "network", "attack", "victim", "defense")

Identity = Mapping[str, Any]
"""What was run for a cell: the JSON of each of `PARTS`, "victim" its training, and the defender's
`clean_ratio`. An undefended model has an empty defense."""


def reproduced(jobs: Iterable[Job], paper: Paper) -> Reproduced:
    """The published cells that jobs are, each with the fields in which the job departs.

    A job is a cell if the plugins of all parts and the defender's share of clean data are the same,
    and no field differs that `variants` of `results/paper/tables.yaml` names.
    """
    variants = {*paper.names["variants"], *IDENTITY}
    measured = {job.key: _measured(job) for job in jobs if isinstance(job, AttackJob | DefenseJob)}
    here = {_plugins(ours)[:2] for ours in measured.values()}
    identities: dict[Cell, str] = {}
    near: dict[tuple[str, ...], dict[str, Identity]] = defaultdict(dict)
    cells = {cell for layout in paper.layouts for cell in layout.cells()} | {*paper.values}
    for place in {cell[:2] for cell in cells}:
        if (where := _place(place, paper.names, here)) is None:
            continue
        for cell in (cell for cell in cells if cell[:2] == place):
            if theirs := _published(cell, where, paper.names):
                identities[cell] = job_key(theirs)
                near[_plugins(theirs)][identities[cell]] = theirs
    runs = {}
    for key, ours in measured.items():
        found = {
            name: departures
            for name, theirs in near.get(_plugins(ours), {}).items()
            if (departures := _departures(ours, theirs, variants)) is not None
        }
        if found:
            runs[key] = found
    return Reproduced(identities, runs)


def _measured(job: AttackJob | DefenseJob) -> Identity:
    victim = job.victim.identity if isinstance(job, DefenseJob) else job.identity
    undefended: Identity = {
        "dataset": victim["dataset"],
        "network": victim["architecture"],
        "attack": victim["attack"],
        "victim": victim["recipe"],
        "defense": {},
        "clean_ratio": None,
    }
    if isinstance(job, AttackJob):
        return undefended
    clean_ratio = job.clean_ratio if job.defense.uses == "clean" else None
    return {**undefended, "defense": job.identity["defense"], "clean_ratio": clean_ratio}


def _plugins(identity: Identity) -> tuple[str, ...]:
    parts = ("dataset", "network", "attack", "defense")
    return tuple(identity[part].get("plugin", "") for part in parts)


def _departures(
    ours: Identity, theirs: Identity, variants: set[str]
) -> tuple[Departure, ...] | None:
    """The fields that differ; None where the two are different cells."""
    if ours["clean_ratio"] != theirs["clean_ratio"]:
        return None
    departures = []
    for part in PARTS:
        for name in differences(theirs[part], ours[part]):
            if variants.intersection(name.split(".")):
                return None
            pair = (_value(side[part], name) for side in (ours, theirs))
            departures.append(Departure(part, name, *pair))
    return tuple(departures)


def _value(fields: Any, name: str) -> Any:
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, Mapping) else None
    return fields


def _place(
    place: tuple[str, str], names: Mapping[str, Any], here: Collection[tuple[str, ...]]
) -> dict[str, Any] | None:
    """The JSON of a published dataset and network.

    None where they are not in this software, or not `here`, among the plugins that were run.
    """
    if place[0] not in names["datasets"] or place[1] not in names["networks"]:
        return None
    dataset, network = names["datasets"][place[0]], names["networks"][place[1]]
    if tuple(_split(spec)[0].partition(":")[0] for spec in (dataset, network)) not in here:
        return None
    built, architecture = _built("datasets", dataset), _built("models", network)
    if built is None or architecture is None:
        return None
    return {"dataset": built["fields"], "network": architecture["fields"]}


def _published(cell: Cell, place: Mapping[str, Any], names: Mapping[str, Any]) -> Identity | None:
    """What was run for a published cell; None where a part of it is not in this software.

    place: the JSON of its dataset and network.
    """
    if cell.attack not in names["attacks"] or cell.dataset not in names["recipes"]:
        return None
    defense: Mapping[str, Any] | None = {"fields": {}, "uses": ""}
    clean_ratio = None
    if cell.defense != UNDEFENDED:
        if cell.defense not in names["defenses"]:
            return None
        name, fields = _split(names["defenses"][cell.defense])
        clean_ratio = fields.pop("clean_ratio", CLEAN_RATIO)
        settings = names["settings"].get(cell.dataset, {}).get(name, {})
        defense = _built("defenses", {name: settings | fields})
    name, fields = _split(names["attacks"][cell.attack])
    recipe = names["recipes"][cell.dataset] | fields.pop("recipe", {})
    attack = _built("attacks", {name: fields})
    if attack is None or defense is None:
        return None
    return {
        **place,
        "attack": attack["fields"] | ({} if cell.ratio == RATIO else {"ratio": cell.ratio}),
        "victim": _recipe(canonical_json(recipe)),
        "defense": defense["fields"],
        "clean_ratio": clean_ratio if defense["uses"] == "clean" else None,
    }


def _split(spec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    ((name, fields),) = spec.items()
    return name, dict(fields)


def _built(kind: str, spec: Any) -> Mapping[str, Any] | None:
    return _plugin(kind, canonical_json(spec))


@cache
def _plugin(kind: str, spec: str) -> Mapping[str, Any] | None:
    """The JSON of a plugin in the language of configs; None if there is no such one."""
    try:
        plugin = build(kind, json.loads(spec))
    except InputError:
        return None
    return {"fields": plugin.canonical(), "uses": getattr(plugin, "uses", "")}


@cache
def _recipe(fields: str) -> Mapping[str, Any]:
    return asdict(construct(Recipe, json.loads(fields), "recipe"))
