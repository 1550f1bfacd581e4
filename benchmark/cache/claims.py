"""Claims: which of several drivers on one cache runs a job, and whether a job is running at all.

A claim is a lease of the library filelock, the file `claims/KEY`, which names its process and is
touched for as long as that lives. A claim whose process is gone from this machine, or was restarted
with the same number, is free at once; one of another machine or container when it has not been
touched for two minutes of the observer's clock. A takeover that goes wrong costs time, never
results: of two processes that publish a job the first wins.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from sau_bench.benchmark.canonical import KEY

RUN = "run-"
"""How the claims of whole runs begin; a hidden file beside such a claim lists the keys."""
LEASE = 120.0
"""Seconds without a touch after which the claim of another machine is free; touched every 15."""


class Claims:
    """Claims of this process below one cache; a context that gives all back at its end."""

    def __init__(self, root: Path, *, lease: float = LEASE) -> None:
        self.folder = root / "claims"
        self._lease = lease
        self._leases: dict[str, SoftFileLease] = {}
        self._held: set[str] = set()

    def __enter__(self) -> Claims:
        self.folder.mkdir(parents=True, exist_ok=True)
        for key in self._keys():
            self.is_live(key)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._held):
            self.release(key)

    def take(self, key: str) -> bool:
        """Claim a job; whether it is now this process's to run.

        Raises:
            OSError: the file system is full or not writable.
        """
        if key in self._held:
            return True
        # Kept also without success: it remembers when the other machine last touched its claim.
        lease = self._leases.setdefault(key, self._make(key))
        try:
            lease.acquire(blocking=False)
        except (Timeout, LeaseSettingsMismatch):  # also of a version with another lease
            return False
        self._held.add(key)
        return True

    def release(self, key: str) -> None:
        """Give a claim back; one that another process has taken over stays with that process."""
        if key in self._held:
            self._held.discard(key)
            self._leases.pop(key).release()
            if key.startswith(RUN):
                self._list(key).unlink(missing_ok=True)

    def is_live(self, key: str) -> bool:
        """Whether a living process has claimed the job; the claim of a dead one is removed.

        Asking is trying: what can be taken is free.
        """
        if key in self._held:
            return True
        if not (self.folder / key).exists():
            return False
        try:
            if not self.take(key):
                return True
        except OSError:  # a cache that this process may only read: somebody's claim is there
            return True
        self.release(key)
        return False

    def live(self) -> list[str]:
        """Keys of all jobs that living processes have claimed, sorted."""
        return [key for key in self._keys() if KEY.fullmatch(key) and self.is_live(key)]

    def announce(self, keys: Iterable[str]) -> None:
        """Until this context ends, say that this process runs a grid of these jobs.

        Between two jobs it holds no claim, and what it is about to read must not be deleted.
        """
        name = f"{RUN}{uuid.uuid4().hex[:16]}"
        self._list(name).write_text("\n".join(keys))
        self.take(name)

    def announced(self) -> dict[str, list[str]]:
        """Keys of the jobs of each grid that a living process runs, by the name of its claim."""
        grids = {}
        for name in self._keys():
            if name.startswith(RUN) and self.is_live(name):
                with suppress(FileNotFoundError):  # it ends at this moment
                    text = self._list(name).read_text(errors="replace")
                    grids[name] = KEY.findall(text)
        return grids

    def owner(self, key: str) -> str:
        """The process that holds a claim, in words."""
        owner = self._leases.get(key, self._make(key)).owner
        if owner is None:
            return "another process"
        # In a container the library adds the process namespace to the name of the host.
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}"

    def idle(self, key: str) -> float:
        """Seconds since the owner of a claim touched it, by the clocks of both machines."""
        try:
            return max(0.0, time.time() - (self.folder / key).stat().st_mtime)
        except FileNotFoundError:  # released at this moment
            return 0.0

    def _keys(self) -> list[str]:
        return sorted(file.name for file in self.folder.glob("[!.]*"))

    def _list(self, name: str) -> Path:
        return self.folder / f".{name}"

    def _make(self, key: str) -> SoftFileLease:
        return SoftFileLease(
            self.folder / key,
            lease_duration=self._lease,
            heartbeat_interval=self._lease / 8,
            thread_local=False,
        )
