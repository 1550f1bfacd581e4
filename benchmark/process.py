"""What a process knows about itself as a worker: whether it is one, and whether it is fit for more.

Jobs say here that they have spoiled their process; whoever gave the job to it replaces it.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""


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


def keep_freed_memory() -> None:
    """Keep memory that is freed for the next allocation, instead of giving it back to the system.

    A training step on a CPU frees and takes the same buffers again and again; by default glibc maps
    each large one anew, and the system zeroes it page by page. Changes no number. Does nothing
    where there is no glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        return
    # Some versions refuse more than 32 MiB.
    if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
