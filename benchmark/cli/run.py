"""The verb `run`: what is run, and run again, and how long it may take; then the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.cached import discarded, finished, keys_of, selected, write_finished
from sau_bench.benchmark.cli.options import (
    add_config,
    add_data,
    cache_folder,
    check_folders,
    data_folder,
    results_folder,
    seconds,
)
from sau_bench.benchmark.cli.pools import cluster_pool, local_pool, preview
from sau_bench.benchmark.cli.results import check_rows, claim_rows, contents_of, write_rows
from sau_bench.benchmark.cli.texts import changed_texts
from sau_bench.benchmark.errors import InputError, one_line, shown
from sau_bench.benchmark.shipped import command
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.grid import Grid

INCOMPLETE = 1
SMOKE = "smoke"
"""The folder below the results into which runs with `--smoke` write, their cache included."""


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
    if arguments.debug:
        from sau_bench.benchmark.cli.debug import debug

        return debug(arguments, store)
    if not arguments.force:
        known = without_torch(partial(finished, arguments, store))
        if known is not None:
            return write_finished(arguments, configs, store, known)
    return _run(arguments, store)


def _run(arguments: argparse.Namespace, store: Store) -> int:
    from sau_bench.benchmark.cache.claims import Claims
    from sau_bench.benchmark.cache.clean import discard, sweep
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.cli.progress import Progress, closing_line, duration, verdict_of
    from sau_bench.benchmark.cli.terminate import terminable
    from sau_bench.benchmark.grid.grid import jobs_of
    from sau_bench.benchmark.grid.plan import make_plan
    from sau_bench.benchmark.jobs.flops import described_flops, training_flops
    from sau_bench.benchmark.jobs.run_job import run_job
    from sau_bench.benchmark.run.driver import Driver
    from sau_bench.benchmark.run.durations import learned
    from sau_bench.benchmark.run.failures import NoWorkers

    tables, chosen, forced = selected(arguments)
    plan = make_plan(jobs_of(chosen), training_flops)
    # Rows of a whole table, also when --only runs a part of it: the files describe the config.
    written = [
        (table, results_folder(arguments, table.file))
        for table, part in zip(tables, chosen, strict=True)
        if part.places
    ]
    for table, folder in written:
        check_rows(folder, table.file, partial(keys_of, table.grid))
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


def check_data(grids: Sequence[Grid], store: Store, again: Collection[str], data: Path) -> None:
    """Read each dataset that a job to run needs, so that a missing one is known before training.

    Raises:
        InputError: names the command that makes the missing files, or what is wrong with them.
    """
    from sau_bench.benchmark.jobs.surroundings import read_task
    from sau_bench.benchmark.plugin import config_name
    from sau_bench.benchmark.rules import BrokenRule

    cells = [cell for grid in grids for cell in grid.cells()]
    missing = [v for v, d in cells if (d or v).key not in store or (d or v).key in again]
    for dataset in dict.fromkeys(victim.dataset for victim in missing):
        try:
            read_task(dataset, data)
        except InputError:
            raise
        except Exception as error:  # whatever a plugin raises
            told = f"{type(error).__name__}: " * (not isinstance(error, BrokenRule)) + str(error)
            name = config_name(type(dataset))
            raise InputError(
                f"dataset {shown(name, 200)}: {one_line(told)[:300]}; see: {command()} check {name}"
            ) from error


def add_run(parser: argparse.ArgumentParser) -> None:
    add_config(parser, cache=True)
    add_data(parser)
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, or CUDA indices such as 0,1"
    )
    parser.add_argument("--per-device", type=int, default=1, help="jobs that share one device")
    parser.add_argument(
        "--engine", choices=("local", "dask"), default="local", help="where jobs run"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS_OR_FILE", help="of the Dask cluster")
    parser.add_argument(
        "--resource", default="GPU", help="what a job takes one of on a Dask worker (default: GPU)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="shrink images, epochs and networks: does it run at all? (into RESULTS/smoke)",
    )
    parser.add_argument(
        "--victims", action="store_true", help="run attacks, and what they need, and no defense"
    )
    parser.add_argument(
        "--debug",
        metavar="CELL",
        help="run one cell here, in this process: its scores as they come, errors with their "
        "traceback; such as attack=badnets,defense=sau",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try recorded failures again")
    parser.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="AXIS=NAME,...",
        help="cells to run again, such as attack=wanet; may be repeated",
    )
    parser.add_argument("--budget", help="start no job that would end later, such as 30m or 1h30m")
    parser.add_argument("--time-limit", help="kill a job that runs longer, such as 2h")
