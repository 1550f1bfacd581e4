"""From the jobs of a grid to the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob, Job


def make_plan(jobs: Iterable[Job], flops: Callable[[Job], float] = lambda _: 0.0) -> Plan:
    """Steps by key of the jobs and of all they need, needs before those that need them.

    flops: operations of a training pass, see `benchmark.jobs.flops`.
    """
    return {job.key: _step(job, flops(job)) for job in with_needs(jobs)}


def with_needs(jobs: Iterable[Job]) -> list[Job]:
    """Every job once, with all it needs before it."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.key not in ordered:
            for need in job.needs:
                add(need)
            ordered[job.key] = job

    for job in jobs:
        add(job)
    return list(ordered.values())


def _step(job: Job, flops: float) -> Step:
    match job:
        case DefenseJob():
            row = job.victim.key
        case AttackJob():
            row = job.key
        case _:
            row = ""
    return Step(
        key=job.key,
        title=str(job),
        description=Description(job.identity),
        job=job,
        needs=tuple(need.key for need in job.needs),
        row=row,
        texts=job.texts,
        flops=flops,
    )
