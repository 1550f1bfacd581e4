"""SIGTERM ends a run as Ctrl-C does: it is what a batch system sends before it kills."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` and SIGINT `KeyboardInterrupt`, the first of them only.

    What ends here takes a moment to end, and a second signal must not cut that short. Only the main
    thread may enter.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        ignore_signals()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:  # else this process is about to end
                signal.signal(number, handler)


def ignore_signals() -> None:
    """From here to the end of the process, which is near, SIGTERM and Ctrl-C do nothing."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
