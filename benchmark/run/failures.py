"""Why a job failed: every failure has one of a few kinds, which decides what happens next.

Runs in workers: imports nothing but the standard library.
"""

from __future__ import annotations

import errno
import logging
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Iterator
from typing import Literal

Kind = Literal[
    "error", "worker lost", "out of memory", "time limit", "full disk", "unpicklable"
]  # fmt: skip
Failure = dict[str, str]
"""kind: see above. error: one line. traceback: of the worker. log: the last lines of the job."""
LOG_LINES = 20


class WorkerError(Exception):
    """What took a worker away, as an exception of the future of its job."""

    kind: Kind = "worker lost"


class WorkerLost(WorkerError):
    """The worker died with the job in it."""


class Overdue(WorkerError):
    """The worker was killed, because its job ran for longer than the limit."""

    kind = "time limit"


class NoWorkers(Exception):
    """Nothing can run any more: what ends a run, and is no job's fault."""


class NotStarted(NoWorkers):
    """A worker died, or could not import what it needs, before any job ran in it."""


def run_or_report(message: bytes) -> Failure | None:
    """In a worker: run a pickled (function, job); None, or why it failed."""
    tail = _Tail()
    logging.getLogger().addHandler(tail)
    try:
        try:
            function, job = pickle.loads(message)
        except Exception as error:  # unpickling imports and runs whatever the job names
            return failure(error, "unpicklable")
        function(job)
    except (Exception, SystemExit) as error:
        return failure(error, log="\n".join(tail.lines))
    finally:
        logging.getLogger().removeHandler(tail)
    return None


def failure(error: BaseException, kind: Kind | None = None, log: str = "") -> Failure:
    """The record of an exception; its kind is told from the exception where none is given."""
    text = str(error).strip().splitlines()
    named = isinstance(error, WorkerError)
    return {
        "kind": kind or kind_of(error),
        "error": text[0] if named else f"{type(error).__name__}: {text[0] if text else ''}",
        "traceback": "".join(traceback.format_exception(error)),
        "log": log,
    }


def kind_of(error: BaseException) -> Kind:
    """The first cause in the chain that is more than an ordinary error decides."""
    for cause in _chain(error):
        if isinstance(cause, WorkerError):
            return cause.kind
        # Libraries that write files in C or Rust raise errors of their own with the system's text.
        full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or any(text in str(cause) for text in ("No space left", "Disk quota exceeded")):
            return "full disk"
        memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
        if memory or "CUDA out of memory" in str(cause):
            return "out of memory"
    return "error"


def ending(code: int) -> str:
    """How a process ended, in words, by its exit code (negative: a signal's number)."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (perhaps by the system, short of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class _Tail(logging.Handler):
    """The last messages of a job: its own log is dropped with its draft when it fails."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
