"""What a cell of a grid contributes to the table: measured rows, or one that says why none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import DefenseJob, Job
from sau_bench.benchmark.rows import Row, fault, without_result

Failures = Callable[[str], Mapping[str, str] | None]
"""Why a job failed, by its key, see `benchmark.cache.store.Store.failure`."""


class Results(Protocol):
    """Where rows of finished jobs are, by key; see `benchmark.cache.store.Store`."""

    def __contains__(self, key: str) -> bool: ...

    def rows(self, key: str) -> list[Row]: ...


def rows_of(job: Job, kind: str, results: Results, failures: Failures | None) -> list[Row]:
    """The rows that the job measured, or one row without scores that says why there are none.

    kind: of the rows that are expected. failures: None leaves out jobs that are not finished.
    """
    if job.key in results:
        try:
            rows = results.rows(job.key)
        except (InputError, ValueError) as error:
            return [without_result(kind, "unusable", error)]
        if why := _fault_of_all(rows, kind):
            return [without_result(kind, "unusable", why)]
        return rows
    if failures is None:
        return []
    if failure := failures(job.key):
        return [without_result(kind, "failed", _why(failure))]
    if culprit := _culprit(job, results, failures):
        if isinstance(job, DefenseJob):  # the row of the victim says why
            failed = failures(job.victim.key)
            culprit = "its victim has failed" if failed else "its victim is blocked"
        return [without_result(kind, "blocked", culprit)]
    return [without_result(kind, "missing", "not run yet")]


def _fault_of_all(rows: object, kind: str) -> str:
    if not isinstance(rows, list) or not rows:
        return "the job has measured nothing"
    if why := next(filter(None, map(fault, rows)), ""):
        return why
    others = [row["kind"] for row in rows if row["kind"] != kind]
    return f"a row of kind {others[0]!r}, expected {kind!r}" if others else ""


def _culprit(job: Job, results: Results, failures: Failures) -> str:
    """The failed job that this one waits for, directly or not, and why it failed."""
    for need in job.needs:
        if need.key not in results:
            if failure := failures(need.key):
                return f"{need} failed: {_why(failure)}"
            if culprit := _culprit(need, results, failures):
                return culprit
    return ""


def _why(failure: Mapping[str, str]) -> str:
    kind, error = failure.get("kind", "error"), failure.get("error", "unknown")
    return error if kind == "error" else f"{kind}: {error}"
