"""Claims: which of several drivers on one cache runs a job.

A claim is a file that only one process can create, `claims/KEY`, with who made it. Its owner
touches it for as long as it lives. One whose process is gone from this machine is taken over at
once; one of another machine when it has not been touched for two minutes. A takeover that goes
wrong costs time, never results: of two processes that publish a job the first wins.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from benchmark.cache.store import Store
from benchmark.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

BEAT = 15.0
"""Seconds between two touches of a claim."""
STALE = 120.0
"""Seconds without a touch after which the claim of another machine is void."""


class Claims:
    """Claims of this process; a context that touches them, and gives all back at its end."""

    def __init__(self, root: Path, *, beat: float = BEAT, stale: float = STALE) -> None:
        self.folder = root / "claims"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.beat, self.stale = beat, stale
        self._text = json.dumps(_self())
        self._mine: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._over = threading.Event()

    def __enter__(self) -> Claims:
        for file in self.folder.glob("[!.]*"):
            self._void(file.name)
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for key in list(self._mine):
            self.release(key)

    def take(self, key: str) -> bool:
        """Whether the job is now this process's to run.

        Raises:
            OSError: the file system is full or not writable.
        """
        if key in self._mine:
            return True
        for _ in range(2):
            try:
                self._create(self.folder / key)
            except FileExistsError:
                if not self._void(key):
                    return False
            else:
                self._mine.add(key)
                return True
        return False

    def release(self, key: str) -> None:
        """Give a claim back; one that another process has taken over stays its own."""
        self._mine.discard(key)
        with self._lock():
            if _read(self.folder / key) == self._text:
                (self.folder / key).unlink(missing_ok=True)

    def owner(self, key: str) -> str:
        """Who holds a claim, in words."""
        try:
            owner = json.loads(_read(self.folder / key) or "")
            return f"process {owner['pid']} on {owner['host']}"
        except (ValueError, KeyError):
            return "another process"

    def _create(self, file: Path) -> None:
        """Make the claim, unless there is one, with its content in the same moment."""
        draft = self.folder / f".{uuid.uuid4().hex}"
        try:
            draft.write_text(self._text)
            try:
                os.link(draft, file)
            except FileExistsError:
                raise
            except OSError:
                # A file system without links: a kill before the write leaves a torn claim.
                with file.open("x") as stream:
                    stream.write(self._text)
        finally:
            draft.unlink(missing_ok=True)

    def _void(self, key: str) -> bool:
        """Remove a claim if nobody stands behind it any more."""
        with self._lock():
            text = _read(self.folder / key)
            if text is None:
                return True
            if not self._is_stale(key, text):
                return False
            (self.folder / key).unlink(missing_ok=True)
            return True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Nobody else removes claims meanwhile: who reads one removes that one and no newer one."""
        with (self.folder / ".lock").open("a") as file:
            if fcntl is not None:
                # Where the file system knows no locks, two takeovers may meet.
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_stale(self, key: str, text: str) -> bool:
        try:
            owner = json.loads(text)
            here = {name: _self()[name] for name in ("host", "space")}
            if all(owner.get(name) == value for name, value in here.items()):
                return _started(owner["pid"]) != owner["start"]
        except (ValueError, KeyError, AttributeError):
            pass  # being written, or torn by a crash: only its age counts
        # Touches are compared among themselves: the clocks of two machines may differ.
        try:
            touched = (self.folder / key).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        last, since = self._seen.get(key, (None, 0.0))
        if touched != last:
            self._seen[key] = touched, time.monotonic()
            return False
        return time.monotonic() - since > self.stale

    def _touch(self) -> None:
        while not self._over.wait(self.beat):
            for key in list(self._mine):
                try:
                    os.utime(self.folder / key)
                except OSError:  # taken over, or a file system that is away: the next beat may do
                    continue


def discard(keys: Iterable[str], store: Store, claims: Claims) -> int:
    """Remove published jobs, records of failure and checkpoints; how many jobs there were.

    Raises:
        InputError: one of them runs in another driver; nothing is removed then.
    """
    wanted = list(keys)
    taken: list[str] = []
    try:
        for key in wanted:
            if not claims.take(key):
                raise InputError(
                    f"--force: {key} runs in {claims.owner(key)}; nothing is discarded"
                )
            taken.append(key)
        there = [key for key in wanted if key in store]
        for key in wanted:
            store.forget_failure(key)
            store.checkpoint(key).unlink(missing_ok=True)
        for key in there:
            store.remove(key)
        return len(there)
    finally:
        for key in taken:
            claims.release(key)


def _self() -> dict[str, str | int]:
    """This process, told apart from all others now and earlier, in containers too."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        space = boot = ""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "space": f"{space} {boot}",
        "pid": pid,
        "start": _started(pid),
    }


def _started(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty if it is gone.

    Where there is no /proc, "?" for a process that lives.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "?"
    return "" if fields[0] in "ZX" else fields[19]


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
