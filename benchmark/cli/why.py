"""The verb `why`: where the number of one cell comes from; without torch, and without the cache."""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.options import (
    add_config,
    cache_folder,
    check_folders,
    results_folder,
)
from sau_bench.benchmark.errors import InputError, one_line
from sau_bench.benchmark.rows import AXES, UNDEFENDED, Row
from sau_bench.benchmark.run.failures import recorded
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.cli.find import Cell

WIDTH, INDENT = 80, 14
NO_RESULT = 1


@dataclass(frozen=True)
class Origin:
    """What a config says of a cell: plain values, see `without_torch`.

    place: its label on each axis. entries: of the config, by axis. files: the config and those it
    takes keys from. needs: titles by key of the jobs that it needs, its victim last. plugins: name,
    file and digest of the text, by role. identity: the JSON whose hash is the key. rules: selection
    rules by the label of the defense.
    """

    place: Mapping[str, Any]
    entries: Mapping[str, str]
    files: tuple[Path, ...]
    key: str
    needs: Mapping[str, str]
    plugins: Mapping[str, tuple[str, str, str]]
    identity: Mapping[str, Any]
    rules: Mapping[str, str]


def why(arguments: argparse.Namespace) -> int:
    """Print it; 0 if the cell has a result."""
    origin = without_torch(partial(_origin, arguments.config, arguments.cell))
    check_folders(arguments, [origin.files[0]])
    store = Store(cache_folder(arguments))
    rows = results_folder(arguments, origin.files[0]) / "rows.csv"
    row, victim, scores = _scores(origin, rows)
    for name, text in (*_config(origin), *_job(origin, store), *_run(row), *scores):
        print(textwrap.fill(
            text, WIDTH, initial_indent=name.ljust(INDENT), subsequent_indent=" " * INDENT,
            break_long_words=False, break_on_hyphens=False,
        ))  # fmt: skip
    if row is not None and victim is not None:
        print(_der(row, victim))
    print("job JSON, whose hash is the key:")
    print(json.dumps(origin.identity, indent=1))
    return 0 if row is not None else NO_RESULT


def _origin(config: Path, only: list[str]) -> Origin:
    from sau_bench.benchmark.cli.find import one_cell
    from sau_bench.benchmark.grid.config import files_of
    from sau_bench.benchmark.grid.plan import with_needs
    from sau_bench.benchmark.plugin import plugin_name, text_digest

    cell = one_cell(config, only, "CELL")
    jobs = with_needs([cell.job])
    plugins = {}
    for job in jobs:
        for role, plugin in job.plugins.items():
            cls = type(plugin)
            plugins[role] = plugin_name(plugin), inspect.getfile(cls), text_digest(cls)
    return Origin(
        place=dict(cell.place),
        entries={axis: _entry(cell, axis) for axis in cell.plugins},
        files=tuple(files_of(cell.table.file)),
        key=cell.job.key,
        needs={job.key: str(job) for job in jobs[:-1]},
        plugins=plugins,
        identity=cell.job.identity,
        rules=cell.table.grid.rules(cell.table.config.select),
    )


def _entry(cell: Cell, axis: str) -> str:
    """The entry of the config that a plugin of the cell is from, in one line of YAML."""
    import yaml

    from sau_bench.benchmark.grid.entries import entries_of

    kind, plugin = f"{axis}s", cell.plugins[axis]
    specs = getattr(cell.table.config, kind)
    made = [(spec, [entry.plugin() for entry in entries_of(kind, [spec])]) for spec in specs]
    same = [spec for spec, plugins in made if plugin in plugins]
    # An entry of `when` has changed what the config says at the plugin itself.
    alike = same or [spec for spec, plugins in made if type(plugin) in map(type, plugins)]
    text = " or ".join(
        yaml.safe_dump(spec, default_flow_style=True, width=10_000, sort_keys=False)
        .strip()
        .removesuffix("...")
        .strip()
        for spec in alike
    )
    return text + ("" if same else ", changed by `when`")


Lines = Iterator[tuple[str, str]]
"""Names and texts of lines."""


def _config(origin: Origin) -> Lines:
    place = origin.place
    yield "cell", " / ".join(str(place[axis]) for axis in AXES)
    others = "".join(f", which takes keys from {file}" for file in origin.files[1:])
    yield "config", f"{origin.files[0]}{others}"
    for axis, entry in origin.entries.items():
        yield "", f"{axis}s: {entry}"
    yield "seed", str(place["seed"])
    yield "key", origin.key
    for key, title in origin.needs.items():
        yield "needs", f"{key} ({title})"


def _job(origin: Origin, store: Store) -> Lines:
    folder, there = store.root / origin.key, origin.key in store
    if there:
        yield "cache", f"{folder}, with job.json and rows.json"
        yield "log", str(folder / "log.jsonl")
    elif failure := recorded(store, origin.key):
        yield "cache", f"failed: {failure['error']}; {store.failures / f'{origin.key}.json'}"
    else:
        yield "cache", f"not in {store.root}: neither job.json nor log nor weights are here"
    texts: dict[str, str] = {}
    for key in (*origin.needs, origin.key):
        try:
            texts |= store.texts(key) if key in store else {}
        except (InputError, ValueError, OSError) as error:
            yield "", f"texts of {key} cannot be read: {one_line(error)}"
    for role, (name, file, digest) in origin.plugins.items():
        then = texts.get(role)
        state = "its text then is not known" if then is None else "as when it ran"
        if then not in (None, digest):
            state = f"CHANGED since it ran, then {then[:12]}"
        yield role, f"{name}, {_relative(file)}, sha256 {digest[:12]}, {state}"


def _relative(file: str) -> Path:
    path, here = Path(file).resolve(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _run(row: Row | None) -> Lines:
    if row is None:
        return
    yield "ran on", ", ".join(filter(None, (row["device"], row["arithmetic"])))
    known = "sau-bench" in row["versions"]
    yield "versions", row["versions"] + ", that of the harness is not recorded" * (not known)
    yield "took", f"{row['seconds']:g} s, at most {row['peak_mib']:g} MiB"
    for name in ("note", "warning"):
        if row[name]:
            yield name, row[name]


def _scores(origin: Origin, file: Path) -> tuple[Row | None, Row | None, list[tuple[str, str]]]:
    """The row of the file that counts, that of its victim if it has one, and what to say of it."""
    if not file.is_file():
        return None, None, [("rows", f"{file} is not there: `run` writes it, or copy it there")]
    from sau_bench.benchmark.report.read import read_rows
    from sau_bench.benchmark.report.tables import select

    rows = read_rows(file)
    place = origin.place
    is_here = (rows[list(AXES)].astype(str) == [str(place[axis]) for axis in AXES]).all(axis=1)
    if origin.key not in set(rows["key"]):
        others = ", ".join(rows.loc[is_here, "key"].unique())
        known = f"; a cell of this name has the key {others}: its config has changed" * bool(others)
        return None, None, [("rows", f"{file} has no row of this key{known}")]
    run = rows[rows["key"] == origin.key]
    with_victim = rows[rows["key"].isin([origin.key, *run["victim"]])]
    chosen = {str(r["key"]): r for r in select(with_victim, origin.rules).to_dict("records")}
    row: Row = {str(name): value for name, value in chosen[origin.key].items()}
    lines = ", ".join(map(str, _lines_of(file, origin.key)))
    told = [("rows", f"{file}, lines {lines}")]
    if row["status"] != "ok":
        told.append(("status", row["status"]))
    if row["acc"] != row["acc"]:
        return None, None, [*told, ("", row["note"] or "no scores")]
    if place["defense"] == UNDEFENDED:
        return row, None, [*told, ("numbers", _numbers(row))]
    value = f", setting {row['value']:g}" if row["value"] == row["value"] else ""
    counts = f"step {row['step']:g} of {run['step'].max():g}{value}, by the rule {row['rule']!r}"
    victim: Row = {str(name): value for name, value in chosen[row["victim"]].items()}
    return row, victim, [
        *told, ("counts", counts), ("numbers", _numbers(row)), ("victim", _numbers(victim))
    ]  # fmt: skip


def _numbers(row: Row) -> str:
    numbers = (f"{name.upper()} {100 * row[name]:.2f}" for name in ("acc", "asr", "racc"))
    images = f"{row['n_clean']:g} clean and {row['n_poisoned']:g} triggered test images"
    return f"{', '.join(numbers)} % of {images}"


def _der(row: Row, victim: Row) -> str:
    """How DER was computed, in percent."""
    drops = [f"max(0, {100 * victim[n]:.2f} - {100 * row[n]:.2f})" for n in ("asr", "acc")]
    text = (
        f"({drops[0]} - {drops[1]} + 100) / 2 = {100 * row['der']:.2f}, of ASR and ACC in percent"
    )
    return textwrap.fill(
        text, WIDTH, initial_indent="DER".ljust(INDENT), subsequent_indent=" " * INDENT
    )


def _lines_of(file: Path, key: str) -> list[int]:
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        return [reader.line_num for row in reader if row.get("key") == key]


def add_why(parser: argparse.ArgumentParser) -> None:
    add_config(parser, cache=True, only=False)
    parser.add_argument(
        "cell",
        nargs="+",
        metavar="AXIS=NAME,...",
        help="the cell, such as attack=badnets,defense=sau; of a victim: defense=No Defense",
    )
