"""How a plugin behaves in its process: it prints nothing and leaves global state alone."""

from __future__ import annotations

import io
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from sau_bench.benchmark.errors import shown
from sau_bench.benchmark.jobs import leaks
from sau_bench.benchmark.jobs.run_job import set_arithmetic
from sau_bench.benchmark.rules import GLOBAL_STATE, SEED, require

SEEDING: tuple[tuple[Any, str], ...] = (
    (torch, "manual_seed"), (torch, "seed"), (np.random, "seed"), (random, "seed")
)  # fmt: skip
"""Functions that seed a generator which a run has seeded."""


@contextmanager
def manners(file: Path) -> Iterator[None]:
    """Inside the block a plugin of the file runs; at its end the process is as it was before.

    Raises:
        BrokenRule: it has printed, seeded a generator of the run, or left global state changed.
    """
    ear, seeded = _Ear(file), _Calls(file)
    changed: list[str] = []
    try:
        with _unchanged(changed), ExitStack() as stack:
            stack.enter_context(redirect_stdout(ear))
            stack.enter_context(redirect_stderr(ear))
            stack.enter_context(patch.object(warnings, "showwarning"))
            for owner, name in SEEDING:
                wrapped = seeded.wrapped(getattr(owner, name), f"{owner.__name__}.{name}")
                stack.enter_context(patch.object(owner, name, wrapped))
            yield
    finally:  # before whatever has gone wrong for these reasons
        detail = f"it calls {seeded.name}; draw from the generator as it is"
        require(seeded.line is None, SEED, detail, seeded.line)
        require(not changed, GLOBAL_STATE, f"it left changed: {', '.join(changed[:5])}")
    detail = f"it printed {shown(ear.text)}; use `logging` or `benchmark.notes.note`"
    require(not ear.text, "a plugin prints nothing", detail, ear.line)


@contextmanager
def _unchanged(changed: list[str]) -> Iterator[None]:
    """Inside the block and after it the process is as a job begins.

    changed: gets the names of what the block left changed.
    """
    set_arithmetic()
    quiet = logging.NullHandler()  # without any handler, logging writes warnings to the terminal
    logging.getLogger().addHandler(quiet)
    before = leaks.take()
    try:
        yield
    finally:
        changed += leaks.differing(before, leaks.take())
        leaks.put(before, changed)
        logging.getLogger().removeHandler(quiet)


def _line(file: Path) -> int | None:
    """The line of the file that called the caller of this function, directly or not."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == str(file):
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment] # None at the end
    return None


class _Ear(io.TextIOBase):
    """A stream that keeps the first text written to it, and the line of the file that wrote it."""

    def __init__(self, file: Path) -> None:
        self.file, self.text = file, ""
        self.line: int | None = None

    def write(self, text: str) -> int:
        if not self.text.strip():
            self.text, self.line = text, _line(self.file)
        return len(text)


class _Calls:
    """Whether the file calls functions: the first one, and the line of the call."""

    def __init__(self, file: Path) -> None:
        self.file, self.name = file, ""
        self.line: int | None = None

    def wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            caller = sys._getframe(1)
            if self.line is None and caller.f_code.co_filename == str(self.file):
                self.name, self.line = name, caller.f_lineno
            return function(*arguments, **options)

        return call
