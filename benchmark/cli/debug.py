"""`run --debug CELL`: one cell in this process, with its scores and its errors as they come."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import discard, sweep
from sau_bench.benchmark.cli.cached import discarded, selected
from sau_bench.benchmark.cli.find import Cell, one_cell
from sau_bench.benchmark.cli.options import data_folder
from sau_bench.benchmark.cli.pools import devices_of
from sau_bench.benchmark.cli.terminate import terminable
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.grid import Grid
from sau_bench.benchmark.grid.plan import with_needs
from sau_bench.benchmark.grid.smoke import shrunk
from sau_bench.benchmark.jobs.run_job import run_job

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.jobs.job import Job

FAILED = 1


def debug(arguments: argparse.Namespace, store: Store) -> int:
    """Run the cell and what it needs; 0 if it has a result. Nothing of a failed job is kept."""
    cell = one_cell(arguments.config, [arguments.debug], "--debug")
    jobs = with_needs([_job(cell, small=arguments.smoke)])
    again = discarded(selected(arguments)[2], arguments.force) & {job.key for job in jobs}
    missing = [job for job in jobs if job.key not in store or job.key in again]
    if arguments.dry_run or not missing:
        print(f"{len(jobs)} jobs: {len(missing)} to run, {len(jobs) - len(missing)} cached")
        return 0
    data, device = data_folder(arguments, cell.table.config.data), _device(arguments.device)
    for dataset in {job.plugins["dataset"] for job in jobs if "dataset" in job.plugins}:
        dataset(data)  # missing files are known at once
    run = partial(
        run_job,
        store=store,
        data=data,
        device=device,
        deterministic=cell.table.config.deterministic,
    )
    with terminable(), Claims(store.root) as claims, _aloud():
        claims.announce(job.key for job in jobs)
        sweep(store, claims)
        discard(again, store, claims)
        for job in missing:
            if not claims.take(job.key):
                raise InputError(f"{job} runs in {claims.owner(job.key)}")
            print(f"{job}, on {device}", flush=True)
            try:
                run(job)
            except (Exception, SystemExit):  # whatever a plugin raises
                traceback.print_exc()
                print(f"{job} failed, and is not in the cache", file=sys.stderr)
                return FAILED
            claims.release(job.key)
    print(f"done: {store.root / jobs[-1].key}; `run` puts it into tables")
    return 0


def _job(cell: Cell, *, small: bool) -> Job:
    """The job of the cell, or the one in its place in a run with `--smoke`."""
    if not small:
        return cell.job
    places = cell.table.grid.places
    *_, job = shrunk(Grid({job: places[job] for job in (cell.victim, cell.job)})).places
    return job


def _device(name: str) -> torch.device:
    """The first device of `--device`."""
    if not devices_of(name, 1, torch.cuda.device_count())[0]:
        return torch.device("cpu")
    first = name.partition(",")[0]
    return torch.device("cuda", int(first) if first.isdecimal() else 0)


@contextmanager
def _aloud() -> Iterator[None]:
    """Inside the block, what the harness and plugins log is printed."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.name.startswith(("sau_bench", "plugin_", "root")))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
