"""The cache: one folder a job, complete or absent.

A job writes into a draft folder; one rename publishes it, so a folder that exists is complete at
whatever moment a process is killed. Files are JSON and safetensors: nothing that runs on load.
A checksum of each is published with them and compared whenever one is read. Does not import torch
before tensors are read or written, so that looking after the cache starts fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cache.drafts import KEY, Draft, draft_name, parse
from benchmark.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
CHECKSUMS = "checksums.json"


class Store:
    """Results of jobs by key, below one folder that several processes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / "drafts"
        self.failures = root / "failures"
        self.checkpoints = root / "checkpoints"
        for folder in (self.drafts, self.failures, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def keys(self) -> list[str]:
        """Keys of all jobs, sorted."""
        with os.scandir(self.root) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        return sorted(filter(KEY.fullmatch, names))

    def rows(self, key: str) -> list[Row]:
        """What the job measured.

        Raises:
            InputError: the file is not the one that was published.
        """
        rows: list[Row] = json.loads(self._intact(key, "rows.json").read_text())
        return rows

    def tensors(self, key: str, device: str = "cpu") -> dict[str, Tensor]:
        """What the job left for others: weights and poisoned images.

        Raises:
            InputError: the file is not the one that was published.
        """
        from safetensors.torch import load_file

        return load_file(self._intact(key, "tensors.safetensors"), device)

    def _intact(self, key: str, name: str) -> Path:
        """The file; hashing it costs little beside the training that made or that needs it."""
        if faults := changes(self.root / key, name):
            raise InputError(
                f"{self.root / key}: {'; '.join(faults)}; remove this folder and run again"
            )
        return self.root / key / name

    @contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """A folder to fill; published with its checksums on a clean exit, dropped on an exception.

        Of two processes that publish the same key the first wins; the results are equal.
        """
        folder = self.drafts / draft_name(key)
        folder.mkdir()
        try:
            yield folder
            sums = {file.name: _checksum(file) for file in sorted(folder.iterdir())}
            write_json(folder / CHECKSUMS, sums)
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

    def remove(self, key: str) -> None:
        """Delete a published job: one rename makes it absent, then its files go as a draft's do."""
        folder = (self.root / key).rename(self.drafts / draft_name(key))
        _sync(self.root)
        shutil.rmtree(folder)

    def unfinished(self) -> list[Draft]:
        """All drafts, by the time of their last write, the latest last."""
        return sorted(filter(None, map(parse, self.drafts.iterdir())), key=lambda d: -d.idle)

    def running(self) -> dict[str, Draft]:
        """Drafts by key whose process may be alive; of several the one written to last."""
        return {draft.key: draft for draft in self.unfinished() if draft.alive}

    def sweep(self) -> None:
        """Remove drafts that killed processes of this machine left behind."""
        for draft in self.unfinished():
            if not draft.alive:
                shutil.rmtree(draft.folder, ignore_errors=True)

    def checkpoint(self, key: str) -> Path:
        """Where a job that takes long saves what it needs to go on after an interruption."""
        return self.checkpoints / f"{key}.pt"

    def record_failure(self, key: str, failure: Mapping[str, str]) -> None:
        """Keep why a job failed, until it succeeds or the record is forgotten."""
        draft = self.failures / f".{key}.{os.getpid()}"
        try:
            draft.write_text(json.dumps(failure, indent=1))
            draft.replace(self.failures / f"{key}.json")
        finally:
            draft.unlink(missing_ok=True)

    def failure(self, key: str) -> dict[str, str] | None:
        """Why the job failed; None too for a record that a crash of the machine has torn."""
        try:
            failure: dict[str, str] = json.loads((self.failures / f"{key}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return failure

    def forget_failure(self, key: str) -> None:
        (self.failures / f"{key}.json").unlink(missing_ok=True)


def name_of(description: str) -> str:
    """A job's name in the cache: 24 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(description.encode()).hexdigest()[:24]


def canonical_json(value: Any) -> str:
    """The one text of a JSON value, whatever the order of its fields."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def changes(folder: Path, *names: str) -> list[str]:
    """What differs from what was published, a line for each file; of the named files or of all.

    Empty for a folder that was published before there were checksums.
    """
    try:
        content = (folder / CHECKSUMS).read_bytes()
        sums = json.loads(content)
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"{CHECKSUMS} changed"]
    if not isinstance(sums, dict) or content != _pretty(sums).encode():
        return [f"{CHECKSUMS} changed"]
    there = {entry.name for entry in folder.iterdir()} - {CHECKSUMS}
    faults = []
    for name in sorted(names or there | set(sums)):
        if name not in there:
            faults.append(f"{name} is missing")
        elif name not in sums:
            faults.append(f"{name} was not published")
        elif _checksum(folder / name) != sums[name]:
            faults.append(f"{name} changed")
    return faults


def write_json(file: Path, value: Any) -> None:
    file.write_text(_pretty(value))


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises: OSError: the disk is full, say."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
        raise
    # safetensors lets nobody else read its files; a cache may be shared like the folders in it.
    file.chmod(file.parent.stat().st_mode & 0o666)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _checksum(file: Path) -> str:
    """The sha256, read in pieces: files may be larger than the memory that is free."""
    state = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
