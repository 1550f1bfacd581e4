"""Drafts: the folders that jobs fill before they are published, and who fills them."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

KEY = re.compile("[0-9a-f]{24}")
NAME = re.compile(rf"({KEY.pattern})\.(.+)\.(\d+)\.[^.]+")
STALE = 3600
"""Seconds without a word after which a job of another machine no longer counts as running."""


@dataclass(frozen=True)
class Draft:
    """A folder that a job fills; its name says which job, on which host and in which process."""

    folder: Path
    key: str
    host: str
    pid: int

    @property
    def alive(self) -> bool:
        """Whether its process may be alive; of another machine's processes nothing is known."""
        return self._is_foreign or _is_alive(self.pid)

    @property
    def stale(self) -> bool:
        """Whether it is of another machine and nothing was written for an hour."""
        return self._is_foreign and self.idle > STALE

    @property
    def since(self) -> float:
        """When the job began, in seconds since the epoch: its description is written first."""
        return min(self._times())

    @property
    def idle(self) -> float:
        """Seconds since the job last wrote something."""
        return max(0.0, time.time() - max(self._times()))

    @property
    def _is_foreign(self) -> bool:
        return self.host != socket.gethostname()

    def _times(self) -> list[float]:
        try:
            return [path.stat().st_mtime for path in (self.folder, *self.folder.iterdir())]
        except FileNotFoundError:  # published or dropped at this moment
            return [time.time()]


def draft_name(key: str) -> str:
    """A name that no other draft has."""
    return f"{key}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"


def parse(folder: Path) -> Draft | None:
    """The draft behind a name, or None: network file systems leave files of their own."""
    name = NAME.fullmatch(folder.name)
    return Draft(folder, name[1], name[2], int(name[3])) if name else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"  # killed, and not yet collected by its parent
