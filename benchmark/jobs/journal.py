"""What a job says: into its log file line by line, notes and warnings into its rows."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sau_bench.benchmark.jobs.printed import listening
from sau_bench.benchmark.notes import NOTE
from sau_bench.benchmark.rows import Row
from sau_bench.benchmark.rules import SILENT, file_of, told_of

log = logging.getLogger(__name__)


@contextmanager
def journal(file: Path, plugins: Iterable[object]) -> Iterator[Callable[[], dict[str, str]]]:
    """Inside the block, what the harness and the plugins log goes to `file`, a JSON line a record.

    A record counts by the file that logs it, whatever its logger is called: that of the harness or
    of a plugin's module or top-level package. The libraries below them are left out. What the file
    of a plugin prints appears, and is a warning.

    Yields:
        A function that returns the columns `note` and `warning` of the job's rows: the notes so
        far, and what was logged as a warning or worse, in order, without repetitions.
    """
    modules = {"sau_bench"}
    classes = {type(plugin) for plugin in plugins}
    modules |= {cls.__module__ for cls in classes}
    with file.open("w", buffering=1) as stream:
        handler = _Handler(stream, tuple({_home(module) for module in modules}))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            with listening({file_of(cls) for cls in classes}, _warn, pass_on=True):
                yield handler.columns
        finally:
            root.setLevel(level)
            root.removeHandler(handler)


def _warn(text: str, file: Path, line: int) -> None:
    log.warning("%s: %s, in line %d of %s", SILENT, told_of(text), line, file.name)


def log_scores(what: str, row: Row) -> None:
    words = (f"{name.upper()} {100 * row[name]:.2f}" for name in ("acc", "asr", "racc"))
    log.info("%s: %s", what, ", ".join(words))


class _Handler(logging.Handler):
    def __init__(self, stream: TextIO, homes: tuple[str, ...]) -> None:
        super().__init__(logging.INFO)
        self.stream, self.homes, self.start = stream, homes, time.time()
        self.notes: dict[str, None] = {}
        self.warnings: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if not record.pathname.startswith(self.homes):
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # values that do not fit: no reason to lose a job
            message = str(record.msg)
        line = {"seconds": round(time.time() - self.start, 2), "message": message}
        for field in ("epoch", "epochs", "loss"):
            if hasattr(record, field):
                line[field] = getattr(record, field)
        self.stream.write(json.dumps(line, default=str) + "\n")
        if record.levelno >= logging.WARNING:
            self.warnings[message] = None
        elif record.levelno >= NOTE:
            self.notes[message] = None

    def columns(self) -> dict[str, str]:
        return {"note": "; ".join(self.notes), "warning": "; ".join(self.warnings)}


def _home(module: str) -> str:
    """The folder of a module's top-level package with a slash, or its file where it is in none."""
    by_path = module.startswith("plugin_")
    top = sys.modules[module if by_path else module.partition(".")[0]]
    file = Path(str(top.__file__))
    return str(file.parent) + "/" if file.name == "__init__.py" else str(file)
