"""The cache: one folder a job, complete or absent.

A job writes into a draft folder; one rename publishes it, so a folder that exists is complete at
whatever moment a process is killed. Files are JSON and safetensors: nothing that runs on load.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

Row = dict[str, Any]


class Store:
    """Results of jobs by key, below one folder that several processes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / "drafts"
        self.failures = root / "failures"
        for folder in (self.drafts, self.failures):
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def rows(self, key: str) -> list[Row]:
        """What the job measured."""
        rows: list[Row] = json.loads((self.root / key / "rows.json").read_text())
        return rows

    def tensors(self, key: str, device: str = "cpu") -> dict[str, Tensor]:
        """What the job left for others: weights and poisoned images."""
        return safetensors.torch.load_file(self.root / key / "tensors.safetensors", device)

    @contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """A folder to fill; published on a clean exit, dropped on an exception.

        Of two processes that publish the same key the first wins; the results are equal.
        """
        folder = self.drafts / f"{key}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            yield folder
            for file in folder.iterdir():
                _sync(file)
            _sync(folder)
            try:
                folder.rename(self.root / key)
            except OSError:
                if key not in self:
                    raise
            else:
                _sync(self.root)
                self.forget_failure(key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def running(self) -> dict[str, Path]:
        """Drafts by key whose process may be alive."""
        alive = {}
        for folder in self.drafts.iterdir():
            key, rest = folder.name.split(".", 1)
            host, pid, _ = rest.rsplit(".", 2)
            if host != socket.gethostname() or _is_alive(int(pid)):
                alive[key] = folder
        return alive

    def sweep(self) -> None:
        """Remove drafts that killed processes of this machine left behind."""
        alive = set(self.running().values())
        for folder in self.drafts.iterdir():
            if folder not in alive:
                shutil.rmtree(folder, ignore_errors=True)

    def checkpoint(self, key: str) -> Path:
        """Where a job that takes long saves what it needs to go on after an interruption."""
        return self.root / "checkpoints" / f"{key}.pt"

    def record_failure(self, key: str, failure: Mapping[str, str]) -> None:
        """Keep why a job failed, until it succeeds or the record is forgotten."""
        draft = self.failures / f".{key}.{os.getpid()}"
        draft.write_text(json.dumps(failure, indent=1))
        draft.replace(self.failures / f"{key}.json")

    def failure(self, key: str) -> dict[str, str] | None:
        try:
            failure: dict[str, str] = json.loads((self.failures / f"{key}.json").read_text())
        except FileNotFoundError:
            return None
        return failure

    def forget_failure(self, key: str) -> None:
        (self.failures / f"{key}.json").unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n")


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
