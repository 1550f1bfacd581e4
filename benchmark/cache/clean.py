"""Look after the cache: what each folder holds, whether it is intact, what no config needs."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from benchmark.cache.drafts import KEY, Draft
from benchmark.cache.store import CHECKSUMS, Store, canonical_json, changes, name_of
from benchmark.errors import InputError
from benchmark.grid.config import read

ABANDONED = 24 * 3600
"""Seconds of silence after which a draft of another machine is taken for a dead one's: longer than
any epoch, since deleting a living job's draft loses its work."""


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
    """The cache in a folder; unlike `Store`, makes none where there is none.

    Raises:
        InputError: there is none.
    """
    if not (root / "drafts").is_dir():
        raise InputError(f"no cache in {str(root)!r}, accepted: a folder that `run` has filled")
    return Store(root)


def references(configs: Sequence[Path]) -> dict[str, list[str]]:
    """Names of the configs that need each job, by key: jobs of its grid and what those need.

    Raises:
        InputError: no config at all, or one that cannot be read or built.
    """
    from benchmark.grid.grid import make_grid
    from benchmark.jobs.job import key

    if not configs:
        raise InputError("no config given, and none in configs/")
    users: dict[str, list[str]] = defaultdict(list)
    for config in dict.fromkeys(configs):
        for job in make_grid(read(config)).jobs():
            users[key(job)].append(config.stem)
    return dict(users)


def jobs(store: Store) -> Iterator[Entry]:
    """All published jobs."""
    keys = store.keys()
    return (_entry("job", store.root / key, key) for key in keys)


def unused(store: Store, needed: Collection[str]) -> list[Entry]:
    """What can go: jobs, failures and checkpoints that are not needed, and abandoned drafts.

    Drafts whose process may be alive are never among them.
    """
    spare: list[Entry] = []
    folders: dict[Kind, Path] = {"failure": store.failures, "checkpoint": store.checkpoints}
    for kind, folder in folders.items():
        for file in sorted(folder.glob("*.*")):
            if KEY.fullmatch(file.stem) and file.stem not in needed:
                spare.append(_entry(kind, file, file.stem))
    return [
        *(entry for entry in jobs(store) if entry.key not in needed),
        *(
            _entry("draft", draft.folder, draft.key)
            for draft in store.unfinished()
            if _is_abandoned(draft)
        ),
        *spare,
    ]


def strangers(store: Store, needed: Collection[str]) -> list[Draft]:
    """What may be running although it is not needed: its grid may use what looks unused."""
    drafts = store.running().values()
    return [d for d in drafts if d.key not in needed and not _is_abandoned(d)]


def delete(store: Store, entry: Entry) -> None:
    """Remove it for good; a job goes by one rename, so that no half of it is ever found."""
    if entry.kind == "job":
        store.remove(entry.key)
    elif entry.kind == "draft":
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        entry.path.unlink(missing_ok=True)


def faults(folder: Path) -> list[str]:
    """What is wrong with a job's folder; empty if it is complete and as it was published.

    One that was published before there were checksums can only be told to be complete.
    """
    try:
        return changes(folder) or list(_gaps(folder))
    except OSError as error:
        return [f"cannot be read: {error}"]


def is_sealed(folder: Path) -> bool:
    """Whether checksums were published with the folder."""
    return (folder / CHECKSUMS).exists()


def titles(entries: Sequence[Entry]) -> list[str]:
    """What each entry is: "dataset / model / attack / seed / defense", of a failure its error.

    Of several that would be called the same, each also names the fields that differ.
    """
    found = [_told(entry) for entry in entries]
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for title, fields in found:
        groups[title].append(fields)
    differing = {
        title: [
            name
            for name in dict.fromkeys(name for fields in group for name in fields)
            if len({fields.get(name) for fields in group}) > 1
        ]
        for title, group in groups.items()
    }
    parts = [[f"{n}={f.get(n, '-')}" for n in differing[title]] for title, f in found]
    return [
        title + (f" ({', '.join(own)})" if own else "")
        for (title, _), own in zip(found, parts, strict=True)
    ]


def _entry(kind: Kind, path: Path, key: str) -> Entry:
    files = {file.name: file.stat() for file in (path.iterdir() if path.is_dir() else [path])}
    last = files.get("rows.json", path.stat())
    return Entry(kind, path, key, sum(file.st_size for file in files.values()), last.st_mtime)


def _is_abandoned(draft: Draft) -> bool:
    return not draft.alive or (draft.stale and draft.idle > ABANDONED)


def _gaps(folder: Path) -> Iterator[str]:
    """What a complete folder would have."""
    try:
        description = json.loads((folder / "job.json").read_text())
        if name_of(canonical_json(description)) != folder.name:
            yield "job.json describes another job"
        kind = description.get("job")
    except (FileNotFoundError, ValueError, AttributeError):
        yield "job.json cannot be read"
        kind = ""
    try:
        rows = json.loads((folder / "rows.json").read_text())
        sound = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    except (FileNotFoundError, ValueError):
        sound = False
    if not sound:
        yield "rows.json cannot be read"
    tensors = folder / "tensors.safetensors"
    if tensors.exists() or kind in ("asset", "attack"):
        try:
            with safe_open(tensors, "numpy"):  # reads the header only
                pass
        except (FileNotFoundError, SafetensorError):
            yield "tensors.safetensors cannot be read"


def _told(entry: Entry) -> tuple[str, dict[str, str]]:
    """(what it is called, its fields); the first is "unknown" if no file says so."""
    if entry.kind == "checkpoint":
        return "checkpoint of an unfinished training", {}
    file = entry.path if entry.kind == "failure" else entry.path / "job.json"
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError):
        told = None
    if not isinstance(told, dict):
        return "unknown", {}
    if entry.kind == "failure":
        return str(told.get("error", "unknown")), {}
    victim = told.get("victim", told)
    axes = victim if isinstance(victim, dict) else {}
    # A victim's description names the asset of its attack, too.
    made = "attack" if "attack" in axes else "asset"
    parts = [axes.get(axis) for axis in ("dataset", "model", made, "seed")]
    named = [_name(part) for part in (*parts, told.get("defense")) if part is not None]
    return (" / ".join(named), _flat(told)) if named else ("unknown", {})


def _name(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    return str(part.get("plugin") or part.get("asset") or "?")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields by dotted name; long values, which are hashes, cut."""
    flat: dict[str, str] = {}
    for name, field in value.items():
        if isinstance(field, Mapping):
            flat |= _flat(field, "" if name == "victim" else f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(field)[:12]
    return flat
