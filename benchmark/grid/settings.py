"""What jobs are but for their seeds: by this rows of several folders are known to be comparable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob, Job


def settings_of(jobs: Iterable[Job]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By key the fields of the victim and of the defense, with dotted names."""
    settings = {}
    for job in jobs:
        if isinstance(job, AttackJob | DefenseJob):
            victim = job.victim if isinstance(job, DefenseJob) else job
            fields = {n: v for n, v in _flat(victim.identity) if n != "seed"}
            defense: dict[str, Any] = {}
            if isinstance(job, DefenseJob):
                defense = dict(_flat(job.identity["defense"]))
                if job.defense.uses == "clean":
                    defense["clean_ratio"] = job.clean_ratio
            settings[job.key] = fields, defense
    return settings


def _flat(value: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for field, inside in value.items():
        dotted = f"{name}.{field}" if name else str(field)
        if isinstance(inside, Mapping) and inside:
            yield from _flat(inside, dotted)
        else:
            yield dotted, inside
