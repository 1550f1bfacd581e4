"""Why a job failed: every failure has one of a few kinds, which decides what happens next.

Runs in workers, before anything else is there: imports little but the standard library.
"""

from __future__ import annotations

import logging
import pickle
import re
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from errno import EDQUOT, ENOMEM, ENOSPC
from typing import TYPE_CHECKING, Literal

from sau_bench.benchmark.errors import InputError, one_line, printable
from sau_bench.benchmark.process import Stale

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.store import Store

Kind = Literal[
    "error", "worker lost", "out of memory", "time limit", "full disk", "unpicklable", "bad input"
]  # fmt: skip
"""bad input: a damaged folder, data that is missing; not remembered, since repair is all it needs.
"""
Failure = dict[str, str]
"""kind: see above. error: one line. traceback: of the worker. log: the last lines of the job."""
LOG_LINES = 20
LINE, TEXT = 500, 20_000
"""Characters of an error and of a traceback or log that are stored and shown."""
TORCH_SHORTAGE = (
    r"\[enforce fail at alloc_cpu\.cpp:\d+\]|DefaultCPUAllocator: |CUDA (error: )?out of memory"
)
"""How torch begins the text of an error, a plain RuntimeError, when memory is short."""


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
    except Stale:  # the worker makes way for a new one
        raise
    except BaseException as error:  # a plugin may raise what it likes; Ctrl-C does not come here
        return failure(error, log="\n".join(tail.lines))
    finally:
        logging.getLogger().removeHandler(tail)
    return None


def failure(error: BaseException, kind: Kind | None = None, log: str = "") -> Failure:
    """The record of an exception; its kind is told from the exception where none is given."""
    text = next(iter(_text(error).strip().splitlines()), "")
    if not isinstance(error, WorkerError | InputError):
        text = f"{type(error).__name__}: {text}"
    trace = "".join(traceback.format_exception(error))
    return cleaned({"kind": kind or kind_of(error), "error": text, "traceback": trace, "log": log})


def cleaned(record: Mapping[str, object]) -> Failure:
    """A record as it is stored and shown: text of a length that can be read, on any terminal."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    clean = {name: printable(text, TEXT) for name, text in texts.items()}
    return clean | {"error": printable(one_line(texts.get("error", "unknown")), LINE)}


def recorded(store: Store, key: str) -> Failure | None:
    """Why the job failed earlier, as far as the record can be read; None where there is none."""
    if not (store.failures / f"{key}.json").is_file():  # a pipe in its place would be waited for
        return None
    try:
        record: object = store.failure(key)
    except (OSError, ValueError, RecursionError):
        return None
    return cleaned(record) if isinstance(record, dict) else None


def kind_of(error: BaseException) -> Kind:
    """The first cause in the chain that is more than an ordinary error decides."""
    for cause in _chain(error):
        if isinstance(cause, WorkerError):
            return cause.kind
        if isinstance(cause, InputError):
            return "bad input"
        if isinstance(cause, OSError) and cause.errno in (ENOSPC, EDQUOT):
            return "full disk"
        if _is_shortage(cause):
            return "out of memory"
    return "error"


def _is_shortage(error: BaseException) -> bool:
    """Whether memory was short; torch, which is not imported here, has a class for GPUs only."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == ENOMEM):
        return True
    names = {cls.__name__ for cls in type(error).__mro__}
    text = _text(error) if type(error) is RuntimeError else ""
    return "OutOfMemoryError" in names or re.match(TORCH_SHORTAGE, text) is not None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # whatever a plugin's own class does
        return f"(its text cannot be read: {type(broken).__name__})"


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
        try:
            self.lines.append(printable(record.getMessage(), LINE))
        except Exception:  # arguments that do not fit the message, or cannot be shown
            self.lines.append("(a message that cannot be formatted)")
