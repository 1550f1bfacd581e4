"""What a process knows about itself as a worker: whether it is one, and whether it is fit for more.

Jobs say here that they have spoiled their process; whoever gave the job to it replaces it.
"""

from __future__ import annotations


class Stale(BaseException):
    """This process has imported another text of a plugin than the job's: a fresh one is needed.

    Not an `Exception`: it is no failure of the job, and nothing that handles those may catch it.
    """


_reasons: list[str] = []
_worker = False


def become_worker() -> None:
    """Say that this process runs nothing but jobs that it is sent."""
    global _worker
    _worker = True


def is_worker() -> bool:
    """Whether this process runs nothing but jobs that it is sent."""
    return _worker


def spoil(reason: str) -> None:
    """Say that this process is not to run another job."""
    _reasons.append(reason)


def spoiled() -> str:
    """Why this process is not to run another job; empty if it may."""
    return "; ".join(_reasons)
