"""The cache: one folder a job, complete or absent.

A job writes into a draft folder; one rename publishes it, so a folder that exists is complete at
whatever moment a process is killed. Files are JSON and safetensors: nothing that runs on load.
A checksum of each is published with them and compared whenever one is read, and `job.json` has to
hash to the folder's name: an altered, moved or copied folder is not used. Does not import torch
before tensors are read or written, so that looking after the cache starts fast.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_bench.benchmark.cache.checksums import CHECKSUMS, checksum, faults, pretty
from sau_bench.benchmark.canonical import KEY
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """A folder that a job fills before it is published."""

    folder: Path
    key: str

    def times(self) -> tuple[float, float]:
        """When the job began and when it last wrote something, in seconds since the epoch."""
        try:
            times = [path.stat().st_mtime for path in (self.folder, *self.folder.iterdir())]
        except FileNotFoundError:  # published or dropped at this moment
            return float("inf"), float("inf")
        return min(times), max(times)

    def write_json(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(pretty(value))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Raises: OSError: the disk is full, say."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        file = self.folder / name
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, file)
        except SafetensorError as error:
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                code = int(number[1])
                raise OSError(code, os.strerror(code), str(file)) from error
            raise
        # safetensors lets nobody else read its files; a cache may be shared like its folders.
        file.chmod(file.parent.stat().st_mode & 0o666)


class Store:
    """Results of jobs by key, below one folder that several processes may share.

    Reading makes nothing: a folder appears when something is written into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / "drafts"
        self.failures = root / "failures"
        self.checkpoints = root / "checkpoints"

    def __contains__(self, key: str) -> bool:
        return (self.root / key).is_dir()

    def keys(self) -> list[str]:
        """Keys of all jobs, sorted."""
        if not self.root.is_dir():
            return []
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

    def texts(self, key: str) -> dict[str, str]:
        """Digests of the plugin files that made the result, by role.

        Raises:
            InputError: the file is not the one that was published.
        """
        texts: dict[str, str] = json.loads(self._intact(key, "texts.json").read_text())
        return texts

    def tensors(self, key: str, device: str = "cpu") -> dict[str, Tensor]:
        """What the job left for others: weights and poisoned images.

        Raises:
            InputError: the file is not the one that was published.
        """
        from safetensors.torch import load_file

        return load_file(self._intact(key, "tensors.safetensors"), device)

    def _intact(self, key: str, name: str) -> Path:
        """The file of this very job; hashing it costs little beside the training that made it."""
        if key not in self:
            raise InputError(f"{self.root / key} has been removed; run again")
        if wrong := faults(self.root / key, name):
            raise InputError(
                f"{self.root / key}: {'; '.join(wrong)}; remove this folder and run again"
            )
        return self.root / key / name

    @contextmanager
    def draft(self, key: str) -> Iterator[Draft]:
        """A folder to fill; published with its checksums on a clean exit, dropped on an exception.

        Of two processes that publish the same key the first wins; the results are equal.
        """
        draft = Draft(self._new_folder(key), key)
        folder = draft.folder
        folder.mkdir(parents=True)
        try:
            yield draft
            draft.write_json(CHECKSUMS, {f.name: checksum(f) for f in sorted(folder.iterdir())})
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
        folder = (self.root / key).rename(self._new_folder(key))
        _sync(self.root)
        shutil.rmtree(folder)

    def unfinished(self) -> list[Draft]:
        """All drafts, by the time of their last write, the latest last."""
        if not self.drafts.is_dir():
            return []
        # Network file systems leave files of their own.
        folders = [f for f in self.drafts.iterdir() if KEY.fullmatch(f.name.partition(".")[0])]
        drafts = [Draft(folder, folder.name.partition(".")[0]) for folder in folders]
        return sorted(drafts, key=lambda draft: draft.times()[1])

    def checkpoint(self, key: str) -> Path:
        """Where a job that takes long saves what it needs to go on after an interruption."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        return self.checkpoints / f"{key}.pt"

    def record_failure(self, key: str, failure: Mapping[str, str]) -> None:
        """Keep why a job failed, until it succeeds or the record is forgotten."""
        self.failures.mkdir(parents=True, exist_ok=True)
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

    def _new_folder(self, key: str) -> Path:
        return self.drafts / f"{key}.{uuid.uuid4().hex[:16]}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
