"""Checksums: whether a folder of the cache holds what was published under its key, unchanged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sau_bench.benchmark.canonical import job_key
from sau_bench.benchmark.errors import one_line

CHECKSUMS, JOB, ROWS = "checksums.json", "job.json", "rows.json"


def changes(folder: Path, *names: str) -> list[str]:
    """What differs from what was published, a line for each file; of the named files or of all.

    A folder without checksums, one whose `job.json` describes a job of another key, or one that
    lacks what every job publishes, differs too, whatever files are named.

    Raises:
        OSError: a file cannot be read.
    """
    if not (folder / CHECKSUMS).is_file():
        return [f"{CHECKSUMS} is missing"]
    content = (folder / CHECKSUMS).read_bytes()
    try:
        sums = json.loads(content)
    except ValueError:
        return [f"{CHECKSUMS} changed"]
    if not isinstance(sums, dict) or content != pretty(sums).encode():
        return [f"{CHECKSUMS} changed"]
    there = {entry.name for entry in folder.iterdir()} - {CHECKSUMS}
    faults = []
    for name in sorted({JOB, *(names or (ROWS, *there, *sums))}):
        if name not in there:
            faults.append(f"{name} is missing")
        elif name not in sums:
            faults.append(f"{name} was not published")
        elif not (folder / name).is_file():  # opening a pipe would wait for ever
            faults.append(f"{name} is no file")
        elif checksum(folder / name) != sums[name]:
            faults.append(f"{name} changed")
    if not faults and job_key(json.loads((folder / JOB).read_bytes())) != folder.name:
        faults.append(f"{JOB} describes another job")
    return faults


def faults(folder: Path, *names: str) -> list[str]:
    """`changes`, with what cannot be read among them."""
    try:
        return changes(folder, *names)
    except (OSError, ValueError) as error:
        return [f"cannot be read: {one_line(error)}"]


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
