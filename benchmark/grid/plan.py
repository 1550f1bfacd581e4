"""From the jobs of a grid to the steps of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable

from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job, describe, key, needs
from benchmark.run.durations import Step


def make_plan(jobs: Iterable[Job]) -> dict[str, Step]:
    """Steps by key, needs before those that need them; each job is hashed once."""
    steps: dict[str, Step] = {}
    keys: dict[Job, str] = {}

    def name(job: Job) -> str:
        if job not in keys:
            keys[job] = key(job)
        return keys[job]

    for job in jobs:
        match job:
            case DefenseJob():
                row = name(job.victim)
            case AttackJob():
                row = name(job)
            case AssetJob():
                row = ""
        steps[name(job)] = Step(
            name(job), job, json.loads(describe(job)), tuple(map(name, needs(job))), row
        )
    return steps
