"""What files of plugins print, which they should not: heard at the standard streams."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

_OTHERS = {logging.__file__, warnings.__file__}
"""What a plugin says through these it does not print."""

Heard = Callable[[str, Path, int], object]
"""Takes the first text that a file has printed, the file, and the line that did."""


@contextmanager
def listening(files: Collection[Path], heard: Heard, *, pass_on: bool) -> Iterator[None]:
    """Inside the block, `heard` is called at most once: when a file prints more than white space.

    pass_on: whether what is printed appears.
    """
    ear = _Ear({str(file) for file in files}, heard)
    out, err = (_Stream(stream, ear, pass_on) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Ear:
    def __init__(self, files: Collection[str], heard: Heard) -> None:
        self.files, self.heard, self.done = files, heard, False

    def __call__(self, text: str) -> None:
        """text: what the caller's caller writes."""
        if self.done or not text.strip():
            return
        frame = sys._getframe(2)
        while frame is not None and (file := frame.f_code.co_filename) not in _OTHERS:
            if file in self.files:
                self.done = True  # first: whoever hears it may write, too
                self.heard(text, Path(file), frame.f_lineno)
                return
            frame = frame.f_back  # type: ignore[assignment] # None at the end


class _Stream:
    """A standard stream with an ear."""

    def __init__(self, stream: TextIO, ear: _Ear, pass_on: bool) -> None:
        self.stream, self.ear, self.pass_on = stream, ear, pass_on

    def write(self, text: str) -> int:
        self.ear(text)
        if self.pass_on:
            self.stream.write(text)
            self.stream.flush()  # a worker's end is sudden
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
