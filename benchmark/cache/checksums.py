"""Checksums: whether a folder of the cache is as it was published, and complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.canonical import job_key

CHECKSUMS = "checksums.json"


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
    if not isinstance(sums, dict) or content != pretty(sums).encode():
        return [f"{CHECKSUMS} changed"]
    there = {entry.name for entry in folder.iterdir()} - {CHECKSUMS}
    faults = []
    for name in sorted(names or there | set(sums)):
        if name not in there:
            faults.append(f"{name} is missing")
        elif name not in sums:
            faults.append(f"{name} was not published")
        elif checksum(folder / name) != sums[name]:
            faults.append(f"{name} changed")
    return faults


def faults(folder: Path) -> list[str]:
    """What is wrong with the folder of a job; empty if it is complete and as it was published.

    Of one that was published before there were checksums only completeness is known.
    """
    try:
        return changes(folder) or list(_gaps(folder))
    except OSError as error:
        return [f"cannot be read: {error}"]


def is_sealed(folder: Path) -> bool:
    """Whether checksums were published with the folder."""
    return (folder / CHECKSUMS).exists()


def checksum(file: Path) -> str:
    """The sha256 of a file, read in pieces: it may be larger than the memory that is free."""
    state = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def pretty(value: Any) -> str:
    """JSON as it stands in the files of the cache."""
    return json.dumps(value, indent=1) + "\n"


def _gaps(folder: Path) -> Iterator[str]:
    """What a complete folder would have."""
    from safetensors import SafetensorError, safe_open

    try:
        description = json.loads((folder / "job.json").read_text())
        if job_key(description) != folder.name:
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
