"""The command line: `python run_grid.py VERB`."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sau_bench.benchmark.cli.bench import add_bench, bench
from sau_bench.benchmark.cli.cache import add_cache
from sau_bench.benchmark.cli.leaderboard import add_leaderboard, leaderboard
from sau_bench.benchmark.cli.options import add_config, add_data
from sau_bench.benchmark.cli.plugins import fetch, list_plugins
from sau_bench.benchmark.cli.report import add_report, report
from sau_bench.benchmark.cli.run import run
from sau_bench.benchmark.cli.show import show
from sau_bench.benchmark.cli.status import status
from sau_bench.benchmark.cli.terminate import Terminated, ignore_signals
from sau_bench.benchmark.errors import InputError, nearest, one_line, printable

VERBS = ("run", "status", "report", "leaderboard", "show", "cache", "fetch", "list", "bench")
LINE = 2_000
"""Characters of an error."""
INPUT_ERROR, INCOMPLETE, INTERRUPTED, TERMINATED = 2, 1, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 fine, 1 incomplete, 2 bad input."""
    _print_anything()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    try:
        if not words[0].startswith("-") and words[0] not in VERBS:
            raise InputError(
                f"unknown verb {words[0]!r}; accepted: {', '.join(VERBS)}{nearest(words[0], VERBS)}"
            )
        arguments = _parser().parse_args(words)
        return int(arguments.verb(arguments))
    except InputError as error:
        print(f"error: {printable(one_line(error), LINE)}", file=sys.stderr)
        return INPUT_ERROR
    except KeyboardInterrupt as end:
        ignore_signals()
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: the disk is full ({error})", file=sys.stderr)
            return INCOMPLETE
        if error.filename is None:
            raise
        # A folder that cannot be written, a file in place of one: for whoever runs this to mend.
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR


def _print_anything() -> None:
    """Make output never fail for its encoding, such as ASCII: what does not fit becomes escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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

    running = verb("run", run, "run what is missing of a grid, then write rows, tables and figures")
    add_config(running, cache=True)
    add_data(running)
    running.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, or CUDA indices such as 0,1"
    )
    running.add_argument("--per-device", type=int, default=1, help="jobs that share one device")
    running.add_argument(
        "--engine", choices=("local", "dask"), default="local", help="where jobs run"
    )
    running.add_argument("--scheduler", metavar="ADDRESS_OR_FILE", help="of the Dask cluster")
    running.add_argument(
        "--resource", default="GPU", help="what a job takes one of on a Dask worker (default: GPU)"
    )
    running.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    running.add_argument(
        "--smoke",
        action="store_true",
        help="shrink images, epochs and networks: does it run at all? (into RESULTS/smoke)",
    )
    running.add_argument("--retry-failed", action="store_true", help="try recorded failures again")
    running.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="AXIS=NAME,...",
        help="cells to run again, such as attack=wanet; may be repeated",
    )
    running.add_argument("--budget", help="start no job that would end later, such as 30m or 1h30m")
    running.add_argument("--time-limit", help="kill a job that runs longer, such as 2h")
    add_config(verb("status", status, "what is done, running, failed and missing"), cache=True)
    reporting = verb("report", report, "tables, figures and pages from rows.csv, without torch")
    add_config(reporting, cache=False)
    add_report(reporting)
    add_leaderboard(
        verb("leaderboard", leaderboard, "one page of the rows of several folders or people")
    )
    showing = verb("show", show, "a contact sheet: clean and poisoned images of each attack")
    add_config(showing, cache=True)
    add_data(showing)
    add_cache(verbs)
    fetching = verb("fetch", fetch, "download a dataset")
    fetching.add_argument("dataset")
    add_data(fetching)
    listing = verb("list", list_plugins, "built-in and installed plugins and their fields")
    listing.add_argument("kind", choices=("attacks", "defenses", "datasets", "models"))
    add_bench(verb("bench", bench, "how fast this machine runs the benchmark, against a ceiling"))
    return parser
