"""The verb `run`: where jobs run, what is run again, how long it may take; then the report."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.options import cache_folder, check_folders, data_folder, results_folder
from sau_bench.benchmark.cli.results import (
    Contents,
    check_rows,
    claim_rows,
    contents_of,
    write_rows,
)
from sau_bench.benchmark.cli.texts import changed_texts
from sau_bench.benchmark.errors import InputError, printable
from sau_bench.benchmark.rows import UNDEFENDED
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.step import Plan
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.cli.progress import Progress
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.grid.grid import Grid, Table
    from sau_bench.benchmark.run.durations import Durations
    from sau_bench.benchmark.run.pool import Pool

INCOMPLETE = 1
SMOKE = "smoke"
"""The folder below the results into which runs with `--smoke` write, their cache included."""
UNITS = {"h": 3600, "m": 60, "s": 1}
LONGEST = 10 * 365 * 24 * 3600
"""Seconds of a duration on the command line."""
IMPORTS = ("sau_bench.benchmark.jobs.run_job",)
"""What a worker loads before its first job."""


@dataclass(frozen=True)
class Finished:
    """A config, or a part of one, whose jobs are all cached: plain values, see `without_torch`.

    plan: without what workers run. keys, contents: of the whole of each table of which a cell is in
    that part, by the file of the table.
    """

    plan: Plan
    keys: dict[Path, set[str]]
    contents: dict[Path, Contents]


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of a config, then write rows, tables and figures."""
    from sau_bench.benchmark.cache.clean import check_files
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.config import read_tables

    configs = read_tables(arguments.config)
    if arguments.smoke:
        arguments.results /= SMOKE
    check_folders(arguments, configs)
    store = Store(cache_folder(arguments))
    check_files(store)
    if not arguments.force:
        known = without_torch(partial(_finished, arguments, store))
        if known is not None:
            return _write_finished(arguments, configs, store, known)
    return _run(arguments, store)


def _finished(arguments: argparse.Namespace, store: Store) -> Finished | None:
    """What is known of a config whose part is all in the cache; None if anything is to run."""
    from sau_bench.benchmark.grid.grid import jobs_of
    from sau_bench.benchmark.grid.plan import make_plan

    tables, chosen, _ = _tables(arguments)
    plan = make_plan(jobs_of(chosen))
    if any(key not in store for key in plan):
        return None
    plan = {key: replace(step, job=None) for key, step in plan.items()}
    written = [table for table, part in zip(tables, chosen, strict=True) if part.places]
    return Finished(
        plan,
        {table.file: _keys(table.grid) for table in written},
        {table.file: contents_of(table.grid, store) for table in written},
    )


def _write_finished(
    arguments: argparse.Namespace, configs: Mapping[Path, Config], store: Store, known: Finished
) -> int:
    """What `_run` does where nothing is to run, for which it needs neither devices nor torch."""
    from sau_bench.benchmark.cache.claims import Claims
    from sau_bench.benchmark.cache.clean import sweep

    plan, folders = known.plan, {file: results_folder(arguments, file) for file in known.contents}
    for text, flag in ((arguments.budget, "--budget"), (arguments.time_limit, "--time-limit")):
        if text:
            seconds(text, flag)
    for file, folder in folders.items():
        check_rows(folder, file, partial(known.keys.__getitem__, file))
    if arguments.dry_run:
        print(f"{len(plan)} jobs: 0 to run, {len(plan)} cached")
        return 0
    for file, folder in folders.items():
        claim_rows(folder, file)
    with Claims(store.root) as claims:
        sweep(store, claims)
    for line in changed_texts(plan, store):
        print(line)
    for file, folder in folders.items():
        write_rows(known.contents[file], folder, configs[file], file)
    print(f"nothing ran: {len(plan)} of {len(plan)} jobs are cached")
    return 0


def _tables(arguments: argparse.Namespace) -> tuple[list[Table], list[Grid], list[Grid]]:
    """The tables of the config, and of each what `--only` and what `--force` keeps."""
    from sau_bench.benchmark.grid.grid import filtered, make_tables
    from sau_bench.benchmark.grid.smoke import shrunk

    tables = make_tables(arguments.config)
    grids = [table.grid for table in tables]
    chosen, forced = filtered(grids, arguments.only), filtered(grids, arguments.force, "--force")
    if arguments.smoke:  # after the names of what is made small have chosen it
        tables = [replace(table, grid=shrunk(table.grid)) for table in tables]
        chosen, forced = list(map(shrunk, chosen)), list(map(shrunk, forced))
    return tables, chosen, forced


def _run(arguments: argparse.Namespace, store: Store) -> int:
    from sau_bench.benchmark.cache.claims import Claims
    from sau_bench.benchmark.cache.clean import discard, sweep
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.cli.progress import Progress, duration
    from sau_bench.benchmark.cli.terminate import terminable
    from sau_bench.benchmark.grid.grid import jobs_of
    from sau_bench.benchmark.grid.plan import make_plan
    from sau_bench.benchmark.jobs.flops import described_flops, training_flops
    from sau_bench.benchmark.jobs.run_job import run_job
    from sau_bench.benchmark.run.driver import Driver
    from sau_bench.benchmark.run.durations import learned
    from sau_bench.benchmark.run.failures import NoWorkers

    tables, chosen, forced = _tables(arguments)
    plan = make_plan(jobs_of(chosen), training_flops)
    # Rows of a whole table, also when --only runs a part of it: the files describe the config.
    written = [
        (table, results_folder(arguments, table.file))
        for table, part in zip(tables, chosen, strict=True)
        if part.places
    ]
    for table, folder in written:
        check_rows(folder, table.file, partial(_keys, table.grid))
    again = discarded(forced, arguments.force) & set(plan)
    budget = seconds(arguments.budget, "--budget") if arguments.budget else None
    limit = seconds(arguments.time_limit, "--time-limit") if arguments.time_limit else None
    data = data_folder(arguments, tables[0].config.data)
    if arguments.engine == "dask":
        pool, device = cluster_pool(arguments.scheduler, arguments.resource, limit), ""
    else:
        pool, device = local_pool(
            arguments.device, arguments.per_device, limit, small=arguments.smoke
        )
    stopped = ""
    if arguments.dry_run:
        with closing(pool):
            done = {key for key in plan if key in store} - again
            durations = learned(store, device, described_flops)
            print(preview(plan, done, durations, pool.slots(), arguments.per_device, device))
        return 0
    check_data(chosen, store, again, data)
    for table, folder in written:
        claim_rows(folder, table.file)
    # The claims last longer than the workers: no other run may start what is still being killed.
    with terminable(), Claims(store.root) as claims, closing(pool):
        claims.announce(plan)
        sweep(store, claims)
        for line in changed_texts(plan, store):
            print(line)
        if again:
            print(f"finished jobs discarded, to run again: {discard(again, store, claims)}")
        if arguments.retry_failed:
            for key in plan:
                store.forget_failure(key)
        durations = learned(store, device, described_flops)
        work = partial(
            run_job,
            store=Store(store.root.absolute()),
            data=data.absolute(),
            deterministic=tables[0].config.deterministic,
        )
        verdict = partial(verdict_of, [table.grid for table in tables], store)
        with Progress(plan, store, pool, durations, verdict) as progress:
            driver = Driver(
                plan, store, pool, work, claims, progress.show, durations, budget, progress.tick
            )
            try:
                driver.run()
                stopped = driver.stopped
            except NoWorkers as error:
                stopped = str(error)
    for table, folder in written:
        write_rows(contents_of(table.grid, store), folder, table.config, table.file, again)
    if left := driver.left():
        why = stopped or f"the budget of {arguments.budget} is used up"
        took = duration(sum(map(durations.seconds, left)))
        print(f"{why}; {len(left)} jobs left out, about {took} of work", file=sys.stderr)
    elif not progress.counts["started"]:
        print(f"nothing ran: {progress.counts['cached']} of {len(plan)} jobs are cached")
    if progress.failed:
        print(closing_line(progress, len(left), store), file=sys.stderr)
    return INCOMPLETE if any(key not in store for key in plan) else 0


def closing_line(progress: Progress, left: int, store: Store) -> str:
    """How many jobs have no result, why the first of them failed, and where its traceback is."""
    counts = {"failed": len(progress.failed), "blocked": progress.counts["blocked"]}
    parts = [f"{count} {word}" for word, count in (counts | {"left out": left}).items() if count]
    first, why = next(iter(progress.failed.items()))
    return (
        f"{sum(counts.values()) + left} of {len(progress.plan)} jobs have no result: "
        f"{', '.join(parts)}; the first, {progress.plan[first]}: {why}; its traceback: "
        f"{store.failures / f'{first}.json'}"
    )


def verdict_of(grids: Sequence[Grid], store: Store, key: str) -> str:
    """The status of the model that counts, of a finished job in the words of a row."""
    from sau_bench.benchmark.grid.grid import Grid

    for victim, place in (pair for grid in grids for pair in grid.places.items()):
        if victim.key == key and place.get("defense") == UNDEFENDED:
            # The grid judges a victim by its dataset.
            return str(Grid({victim: place}).rows(store)["status"].iloc[-1])
    rows = store.rows(key)
    if all(row.get("kind") == "candidates" for row in rows):  # bad ones among them are normal
        rows = sorted(rows, key=lambda row: row.get("status") == "ok")
    return str(rows[-1].get("status", "ok")) if rows else "ok"


def check_data(grids: Sequence[Grid], store: Store, again: Collection[str], data: Path) -> None:
    """Read each dataset that a job to run needs, so that a missing one is known before training.

    Raises:
        InputError: names the command that makes the missing files.
    """
    cells = [cell for grid in grids for cell in grid.cells()]
    missing = [v for v, d in cells if (d or v).key not in store or (d or v).key in again]
    for dataset in dict.fromkeys(victim.dataset for victim in missing):
        dataset(data)


def seconds(text: str, flag: str) -> float:
    """Seconds of "90s", "30m", "2h" or "1h30m".

    Raises:
        InputError: anything else, and zero.
    """
    numbers = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text.strip())
    total = sum(
        int(number) * unit
        for number, unit in zip(
            numbers.groups("0") if numbers else (), UNITS.values(), strict=False
        )
    )
    if not 0 < total <= LONGEST:
        raise InputError(
            f"{flag} is {printable(text, 40)!r}, accepted: such as 90s, 30m, 2h or 1h30m, at most "
            f"{LONGEST // 3600}h"
        )
    return float(total)


def local_pool(
    device: str, per_device: int, limit: float | None, *, small: bool = False
) -> tuple[Pool, str]:
    """One slot, or several, on each chosen device of this machine; and the device's name in rows.

    small: jobs too small for several threads: on a CPU each core is a slot.

    Raises:
        InputError: a device that is not there.
    """
    import torch
    from joblib import cpu_count

    from sau_bench.benchmark.cost import hardware
    from sau_bench.benchmark.run.local import LocalPool

    devices = _devices(device, per_device, torch.cuda.device_count())
    if small and not devices[0]:
        devices = [""] * max(len(devices), cpu_count())
    kind = torch.device("cuda" if devices[0] else "cpu")
    threads = max(1, cpu_count() // len(devices))
    return LocalPool(devices, limit=limit, imports=IMPORTS), hardware(kind, threads)["device"]


def cluster_pool(scheduler: str | None, resource: str, limit: float | None) -> Pool:
    """The slots that a Dask cluster offers.

    Raises:
        InputError: distributed is not installed, or no such cluster answers.
    """
    if scheduler is None:
        raise InputError("--engine dask needs --scheduler ADDRESS or --scheduler FILE")
    from sau_bench.benchmark.run.dask import DaskPool

    return DaskPool(scheduler, resource, limit=limit, imports=IMPORTS)


def discarded(grids: Sequence[Grid], force: Sequence[str]) -> set[str]:
    """Keys of the jobs that `--force` names: whole cells, or of them the defenses only.

    A forced victim is made from a new asset, too. grids: what `force` keeps of those that run.
    """
    from sau_bench.benchmark.grid.labels import filters_of

    if not force:
        return set()
    cells = [cell for grid in grids for cell in grid.cells()]
    keys = {defended.key for _, defended in cells if defended}
    if "defense" not in filters_of(force):
        keys |= {victim.key for victim, _ in cells}
        keys |= {victim.asset.key for victim, _ in cells if victim.asset}
    return keys


def _keys(grid: Grid) -> set[str]:
    return {job.key for job in grid.jobs()}


def preview(
    plan: Plan,
    done: Collection[str],
    durations: Durations,
    slots: int,
    per_device: int = 1,
    device: str = "",
) -> str:
    """What a run would do, and about how long that takes on the device."""
    from sau_bench.benchmark.cli.progress import duration
    from sau_bench.benchmark.run.durations import wall_time

    missing = [key for key in plan if key not in done]
    text = f"{len(plan)} jobs: {len(missing)} to run, {len(plan) - len(missing)} cached"
    if not missing:
        return text
    steps = [plan[key] for key in missing]
    least, most = (hours / 3600 / per_device for hours in durations.range(steps))
    work = sum(map(durations.seconds, steps)) / 3600 / per_device
    wall = wall_time(plan, {}, missing, slots, durations)
    where = f"{_count(slots, 'slot')}" + (f" of {device}" if device else "")
    text += f"\nabout {work:.2f} device hours, {duration(wall)} on {where}"
    if guesses := sum(not durations.is_measured(step) for step in steps):
        text += (
            f"; a guess for {guesses} of them, nothing like these was measured on this device: "
            f"{least:.2f} to {most:.2f} device hours"
        )
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _devices(device: str, per_device: int, count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says in each slot, "" for the CPU."""
    if per_device < 1:
        raise InputError(f"--per-device is {per_device}, accepted: at least 1")
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device == "cpu":
        return [""] * per_device
    indices = [str(i) for i in range(count)] if device == "cuda" else device.split(",")
    if not indices or not all(i.isdecimal() and int(i) < count for i in indices):
        raise InputError(
            f"--device {device!r}: this machine has {count} CUDA devices; accepted: auto, cpu, "
            "cuda, or indices such as 0,1"
        )
    # Indices count what this process may see: a batch system lends some devices, by their names.
    lent = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = lent.split(",") if lent else [str(i) for i in range(count)]
    return [names[int(i)].strip() for i in indices] * per_device
