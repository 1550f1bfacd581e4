"""How a plugin behaves in its process: it prints nothing and leaves global state alone."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from sau_bench.benchmark.jobs import leaks
from sau_bench.benchmark.jobs.printed import listening
from sau_bench.benchmark.jobs.surroundings import set_arithmetic
from sau_bench.benchmark.rules import GLOBAL_STATE, SEED, SILENT, require, told_of

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
    seeded = _Calls(file)
    changed: list[str] = []
    printed: list[tuple[str, int]] = []

    def heard(text: str, _: Path, line: int) -> None:
        printed.append((text, line))

    try:
        with _unchanged(changed), ExitStack() as stack:
            stack.enter_context(listening([file], heard, pass_on=False))
            for owner, name in SEEDING:
                wrapped = seeded.wrapped(getattr(owner, name), f"{owner.__name__}.{name}")
                stack.enter_context(patch.object(owner, name, wrapped))
            yield
    finally:  # before whatever has gone wrong for these reasons
        detail = f"it calls {seeded.name}; draw from the generator as it is"
        require(seeded.line is None, SEED, detail, seeded.line)
        require(not changed, GLOBAL_STATE, f"it left changed: {', '.join(changed[:5])}")
    text, line = printed[0] if printed else ("", None)
    require(not printed, SILENT, told_of(text), line)


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
