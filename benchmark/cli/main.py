"""The command line: `python run_grid.py VERB`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NoReturn

from benchmark.cli.cache import add_cache
from benchmark.cli.terminate import Terminated, terminable
from benchmark.errors import InputError, nearest
from benchmark.grid.config import Config, read

VERBS = ("run", "status", "report", "show", "cache", "fetch", "list")
INPUT_ERROR, INCOMPLETE, INTERRUPTED, TERMINATED = 2, 1, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 fine, 1 incomplete, 2 bad input."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given.insert(0, "run")
    try:
        if not given[0].startswith("-") and given[0] not in VERBS:
            raise InputError(
                f"unknown verb {given[0]!r}; accepted: {', '.join(VERBS)}{nearest(given[0], VERBS)}"
            )
        arguments = _parser().parse_args(given)
        return int(arguments.verb(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except KeyboardInterrupt as end:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: the disk is full ({error})", file=sys.stderr)
        return INCOMPLETE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line like every other bad input, without the usage before it."""
        raise InputError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="run_grid.py", description="Reference benchmark of backdoor defenses.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=function)
        return sub

    def config(sub: argparse.ArgumentParser, *, cache: bool) -> None:
        sub.add_argument("config", nargs="?", type=Path, default=Path("configs/quickstart.yaml"))
        sub.add_argument("--results", type=Path, default=Path("results"), help="output folder")
        if cache:
            sub.add_argument("--cache", type=Path, help="job folders (default: RESULTS/cache)")
            sub.add_argument("--only", default="", help="such as attack=badnets,defense=sau")

    def data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--data",
            type=Path,
            help="folder of the datasets (default: $SAU_BENCH_DATA, the config's data, or ./data)",
        )

    run = verb("run", _run, "run what is missing of a grid, then write rows, tables and figures")
    config(run, cache=True)
    data(run)
    run.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, or CUDA indices such as 0,1"
    )
    run.add_argument("--per-device", type=int, default=1, help="jobs that share one device")
    run.add_argument("--engine", choices=("local", "dask"), default="local", help="where jobs run")
    run.add_argument("--scheduler", metavar="ADDRESS_OR_FILE", help="of the Dask cluster")
    run.add_argument(
        "--resource", default="GPU", help="what a job takes one of on a Dask worker (default: GPU)"
    )
    run.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    run.add_argument("--retry-failed", action="store_true", help="try recorded failures again")
    run.add_argument("--force", default="", help="cells to run again, such as attack=wanet")
    run.add_argument("--budget", help="start no job that would end later, such as 30m or 1h30m")
    run.add_argument("--time-limit", help="kill a job that runs longer, such as 2h")
    config(verb("status", _status, "what is done, running, failed and missing"), cache=True)
    config(verb("report", _report, "tables and figures from rows.csv, without torch"), cache=False)
    show = verb("show", _show, "a contact sheet: clean and poisoned images of each attack")
    config(show, cache=True)
    data(show)
    add_cache(verbs)
    fetch = verb("fetch", _fetch, "download a dataset")
    fetch.add_argument("dataset")
    data(fetch)
    listing = verb("list", _list, "installed plugins and their fields")
    listing.add_argument("kind", choices=("attacks", "defenses", "datasets", "models"))
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from benchmark.cache.claims import Claims, discard
    from benchmark.cache.store import Store
    from benchmark.cli.progress import Progress, duration
    from benchmark.cli.run import cluster_pool, forced, local_pool, preview, seconds
    from benchmark.grid.grid import check_data, make_grid
    from benchmark.grid.plan import make_plan
    from benchmark.jobs.work import work
    from benchmark.run.driver import Driver
    from benchmark.run.durations import learned
    from benchmark.run.failures import NoWorkers

    config = read(arguments.config)
    grid = make_grid(config, arguments.only)
    plan = make_plan(grid.jobs())
    again = forced(config, arguments.force, plan)
    budget = seconds(arguments.budget, "--budget") if arguments.budget else None
    limit = seconds(arguments.time_limit, "--time-limit") if arguments.time_limit else None
    data = _data(arguments, config.data)
    check_data(grid, data)
    if arguments.engine == "dask":
        pool, device = cluster_pool(arguments.scheduler, arguments.resource, limit), ""
    else:
        pool, device = local_pool(arguments.device, arguments.per_device, limit)
    store, stopped = Store(_cache(arguments)), ""
    # The claims last longer than the workers: no other run may start what is still being killed.
    with terminable(), Claims(store.root) as claims, closing(pool):
        durations = learned(store, device)
        if arguments.dry_run:
            done = {key for key in plan if key in store} - again
            print(preview(plan, done, durations, pool.slots(), arguments.per_device))
            return 0
        store.sweep()
        if again:
            print(f"finished jobs discarded, to run again: {discard(again, store, claims)}")
        if arguments.retry_failed:
            for key in plan:
                store.forget_failure(key)
        do = partial(work, cache=store.root.absolute(), data=data.absolute())
        with Progress(plan, store, pool, durations) as progress:
            driver = Driver(plan, store, pool, do, claims, durations, budget, progress.tick)
            try:
                for outcome in driver.run():
                    progress.show(outcome)
                stopped = driver.stopped
            except NoWorkers as error:
                stopped = str(error)
    # Rows of the whole grid, also when --only ran a part of it: the files describe the config.
    rows = make_grid(config).rows(store)
    if len(rows):
        folder = _folder(arguments)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".rows.{os.getpid()}.csv"  # another run may write them at this moment
        rows.to_csv(draft, index=False)
        draft.replace(folder / "rows.csv")
        _write_report(folder, config)
    if left := driver.left():
        why = stopped or f"the budget of {arguments.budget} is used up"
        took = duration(sum(map(durations.seconds, left)))
        print(f"{why}; {len(left)} jobs left out, about {took} of work", file=sys.stderr)
    return INCOMPLETE if any(key not in store for key in plan) else 0


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from benchmark.cache.store import Store
    from benchmark.cli.progress import overview
    from benchmark.grid.grid import make_grid

    grid = make_grid(read(arguments.config), arguments.only)
    tables, complete = overview(grid, Store(_cache(arguments)))
    # Into a file or a pipe, a table keeps its words whole.
    Console(width=None if sys.stdout.isatty() else 200).print(*tables, sep="\n")
    return 0 if complete else INCOMPLETE


def _report(arguments: argparse.Namespace) -> int:
    _write_report(_folder(arguments), read(arguments.config))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from benchmark.cache.store import Store
    from benchmark.cli.contact_sheet import contact_sheets
    from benchmark.grid.grid import make_grid

    config = read(arguments.config)
    grid = make_grid(config, arguments.only)
    folder = _folder(arguments) / "figures"
    data = _data(arguments, config.data)
    files = contact_sheets(grid, Store(_cache(arguments)), data, folder)
    if not files:
        raise InputError(f"no victim of {arguments.config} is finished; first: run it")
    for file in files:
        print(file)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from benchmark.data import Dataset
    from benchmark.plugin import build

    dataset = build("datasets", arguments.dataset)
    assert isinstance(dataset, Dataset)
    dataset.fetch(_data(arguments, Config.data))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from dataclasses import fields

    from benchmark.plugin import keys, load

    for key in keys(arguments.kind):
        cls = load(arguments.kind, key)
        settings = ", ".join(f"{f.name}={f.default!r}" for f in fields(cls))
        print(f"{key}: {cls.name}" + (f" ({settings})" if settings else ""))
    return 0


def _write_report(folder: Path, config: Config) -> None:
    from benchmark.report.write import report

    files = report(folder, config.select, config.effective_acc)
    print(f"{folder / 'report.md'} and {len(files) - 1} tables and figures beside it")


def _data(arguments: argparse.Namespace, otherwise: str) -> Path:
    """The folder of the datasets: from the flag, the environment, or the config."""
    return Path(arguments.data or os.environ.get("SAU_BENCH_DATA") or otherwise)


def _folder(arguments: argparse.Namespace) -> Path:
    return Path(arguments.results, arguments.config.stem)


def _cache(arguments: argparse.Namespace) -> Path:
    return Path(arguments.cache or arguments.results / "cache")
