"""A worker: one process that runs what its driver sends, and ends as soon as its driver is gone.

`Child` is the driver's end, `main` the other one. Messages are pickles over the process's standard
input and output, so that closing them is all it takes to end it, whichever way the driver went.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, NoReturn

from benchmark.failures import NotStarted, Overdue, WorkerLost, ending

POLL = 0.5
"""Seconds between two looks at whether a running job is still wanted."""


class Child:
    """A worker process in a process group of its own.

    environment: variables it has from its start, before anything is imported. imports: modules it
    loads before its first job, so that a machine that cannot load them blames no job.
    """

    def __init__(self, environment: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from benchmark.child import main; "
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{program}main({list(imports)!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.ready = False

    def ask(
        self,
        message: bytes,
        limit: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Any:
        """What the pickled (function, arguments, keywords) returns or raises in the worker.

        Args:
            limit: seconds after which the worker is killed.
            wanted: the worker is killed when this turns false.

        Raises:
            NotStarted: the worker has never come up.
            Overdue: it ran into the limit.
            WorkerLost: it died, with how it died.
        """
        if not self.ready:
            self._greet()
        over = threading.Event()
        overdue: list[bool] = []

        def watch() -> None:
            end = time.monotonic() + (limit or float("inf"))
            while not over.wait(min(POLL, max(0.0, end - time.monotonic()))):
                if time.monotonic() >= end:
                    overdue.append(True)
                if overdue or not wanted():
                    return self.kill()

        threading.Thread(target=watch, daemon=True).start()
        try:
            good, value = self._exchange(message)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._end()
            if overdue:
                raise Overdue(f"ran for longer than the limit of {limit:g} s") from None
            raise WorkerLost(f"the worker {ending(code)}") from None
        finally:
            over.set()
        if isinstance(value, dict) and value.get("kind") == "out of memory":
            # What a framework holds on to after that is only given back by the process's end.
            self.kill()
            self.process.wait()
        if good:
            return value
        raise value

    def kill(self) -> None:
        """End the worker and whatever it has started, at once; harmless when it is gone."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError, AttributeError):
                self.process.kill()  # not yet a group of its own, or no groups on this system

    def _greet(self) -> None:
        try:
            good, value = self._receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            good, value = False, f"it {ending(self._end())} at once"
        if not good:
            self.kill()
            self.process.wait()
            raise NotStarted(f"a worker could not start: {value}")
        self.ready = True

    def _exchange(self, message: bytes) -> Any:
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin)
        self.process.stdin.flush()
        return self._receive()

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        # Pickled twice: a value that cannot be read must not put the stream out of step.
        return pickle.loads(pickle.load(self.process.stdout))

    def _end(self) -> int:
        """The exit code of a worker that has closed its output."""
        try:
            return self.process.wait(POLL)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()


def main(imports: Sequence[str]) -> NoReturn:
    """The worker: run what comes in until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what jobs print must not end up among the replies
    messages: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        while True:
            try:
                messages.put(pickle.load(sys.stdin.buffer))
            except (EOFError, OSError, pickle.UnpicklingError):
                _end_group()

    threading.Thread(target=listen, daemon=True).start()

    def reply(good: bool, value: Any) -> None:
        try:
            data = pickle.dumps((good, value))
            pickle.loads(data)
        except Exception as error:  # pickling runs whatever the value brings along
            data = pickle.dumps((False, RuntimeError(f"no answer can be sent: {error}")))
        pickle.dump(data, replies)
        replies.flush()

    try:
        for module in imports:
            importlib.import_module(module)
    except Exception as error:  # a broken installation raises anything
        reply(False, f"{type(error).__name__}: {error}")
        _end_group()
    reply(True, None)
    while True:
        try:
            function, args, keywords = pickle.loads(messages.get())
            value = function(*args, **keywords)
        except Exception as error:
            reply(False, error)
        else:
            reply(True, value)


def _end_group() -> NoReturn:
    """End this process, and with it what it has started."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
