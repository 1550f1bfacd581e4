"""What can be removed from a cache, and its removal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sau_bench.benchmark.cache import description
from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.canonical import KEY
from sau_bench.benchmark.errors import InputError

Kind = Literal["job", "draft", "failure", "checkpoint"]


@dataclass(frozen=True)
class Entry:
    """Something in the cache. size: bytes. time: of its end, in seconds since the epoch."""

    kind: Kind
    path: Path
    key: str
    size: int
    time: float


def open_cache(root: Path) -> Store:
    """The cache in a folder.

    Raises:
        InputError: there is none, or it holds something that cannot be read.
    """
    if not (root / "drafts").is_dir():
        raise InputError(f"no cache in {str(root)!r}, accepted: a folder that `run` has filled")
    store = Store(root)
    check_files(store)
    return store


def check_files(store: Store) -> None:
    """Check that a cache holds nothing that a reader would wait for, such as a pipe.

    Raises:
        InputError: names the first thing that is neither a file nor a folder, or is a folder where
            a file has to be.
    """
    flat = (store.root / "claims", store.failures, store.checkpoints)
    deep = (store.drafts, *map(store.root.joinpath, store.keys()))
    for folder in (*flat, *deep):
        for path in _odd(folder, folder in flat):
            raise InputError(f"{path} is no file: remove it and run again")


def _odd(folder: Path, is_flat: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not is_flat:
                    yield from _odd(Path(entry.path), is_flat)
                # The type comes with the name, but for links; a claim may go at any moment.
                elif not entry.is_file() and os.path.lexists(entry.path):
                    yield entry.path
    except FileNotFoundError:  # or a draft
        return


def jobs(store: Store) -> Iterator[Entry]:
    """All published jobs."""
    keys = store.keys()
    return (_entry("job", store.root / key, key) for key in keys)


def sweep(store: Store, claims: Claims) -> None:
    """Remove drafts that killed processes left behind."""
    for draft in store.unfinished():
        if not claims.is_live(draft.key):
            shutil.rmtree(draft.folder, ignore_errors=True)


def unused(store: Store, claims: Claims, needed: Collection[str]) -> list[Entry]:
    """What can go: jobs, failures and checkpoints that are not needed, and abandoned drafts.

    Nothing of a job that a living process has claimed is among them.
    """
    live = set(claims.live())
    needed = live | set(needed)
    spare: list[Entry] = []
    folders: dict[Kind, Path] = {"failure": store.failures, "checkpoint": store.checkpoints}
    for kind, folder in folders.items():
        for file in sorted(folder.glob("*.*")):
            if KEY.fullmatch(file.stem) and file.stem not in needed:
                spare.append(_entry(kind, file, file.stem))
    return [
        *(entry for entry in jobs(store) if entry.key not in needed),
        *(_entry("draft", d.folder, d.key) for d in store.unfinished() if d.key not in live),
        *spare,
    ]


def delete(store: Store, entry: Entry) -> None:
    """Remove it for good; a job goes by one rename, so that no half of it is ever seen."""
    if entry.kind == "job":
        store.remove(entry.key)
    elif entry.kind == "draft":
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        entry.path.unlink(missing_ok=True)


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


def titles(entries: Sequence[Entry]) -> list[str]:
    """What each entry is, see `benchmark.cache.description`; of a failure its error."""
    parts = [_title(entry) for entry in entries]
    named = iter(description.titles([part for part in parts if isinstance(part, Description)]))
    return [part if isinstance(part, str) else next(named) for part in parts]


def _entry(kind: Kind, path: Path, key: str) -> Entry:
    files = {file.name: file.stat() for file in (path.iterdir() if path.is_dir() else [path])}
    last = files.get("rows.json", path.stat())
    return Entry(kind, path, key, sum(file.st_size for file in files.values()), last.st_mtime)


def _title(entry: Entry) -> str | Description:
    if entry.kind == "checkpoint":
        return "checkpoint of an unfinished training"
    content: Any
    try:
        file = entry.path if entry.kind == "failure" else entry.path / "job.json"
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        return "unknown"
    if entry.kind == "failure":
        return str(content.get("error", "unknown"))
    return Description(content)
