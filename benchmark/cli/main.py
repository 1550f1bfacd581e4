"""The command line: `sau-bench VERB`, or `python run_grid.py VERB` in a clone."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sau_bench import __version__
from sau_bench.benchmark.cli.bench import add_bench, bench
from sau_bench.benchmark.cli.cache import add_cache
from sau_bench.benchmark.cli.check import add_check, check
from sau_bench.benchmark.cli.export import export
from sau_bench.benchmark.cli.leaderboard import add_leaderboard, leaderboard
from sau_bench.benchmark.cli.new import add_new, new
from sau_bench.benchmark.cli.options import add_config, add_data, add_only, example_of, kind_of
from sau_bench.benchmark.cli.plugins import fetch, list_plugins
from sau_bench.benchmark.cli.report import add_report, report
from sau_bench.benchmark.cli.run import add_run, run
from sau_bench.benchmark.cli.show import show
from sau_bench.benchmark.cli.status import status
from sau_bench.benchmark.cli.terminate import Terminated, ignore_signals
from sau_bench.benchmark.cli.why import add_why, why
from sau_bench.benchmark.errors import InputError, nearest, one_line, printable
from sau_bench.benchmark.shipped import command

VERBS = (
    "run", "status", "why", "report", "leaderboard", "show", "export",
    "new", "check", "list", "fetch", "cache", "bench",
)  # fmt: skip
TOP = ("-h", "--help", "--version")
"""Options in place of a verb; what else begins so belongs to `run`."""
LINE = 2_000
"""Characters of an error."""
INPUT_ERROR, INCOMPLETE, INTERRUPTED, TERMINATED = 2, 1, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 fine, 1 incomplete, 2 bad input."""
    _print_anything()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in TOP):
        words.insert(0, "run")
    try:
        if not words[0].startswith("-") and words[0] not in VERBS:
            raise InputError(
                f"unknown verb {words[0]!r}; accepted: {', '.join(VERBS)}{nearest(words[0], VERBS)}"
            )
        arguments = make_parser().parse_args(words)
        status = int(arguments.verb(arguments))
        sys.stdout.flush()  # here, where it is known what to do if nobody reads on
        return status
    except InputError as error:
        print(f"error: {printable(one_line(error), LINE)}", file=sys.stderr)
        return INPUT_ERROR
    except KeyboardInterrupt as end:
        ignore_signals()
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except BrokenPipeError:  # nobody reads on, as behind `| head`; Python writes more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog=command(), description="Reference benchmark of backdoor defenses.")
    parser.add_argument("--version", action="version", version=f"sau-bench {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        function: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        """example: of its arguments, the name of the verb first."""
        name = example.split()[0]
        sub = verbs.add_parser(name, help=text, description=text, epilog=example_of(example))
        sub.set_defaults(verb=function)
        return sub

    add_run(
        verb(
            run,
            "run what is missing of a grid, then write rows, tables and figures",
            "run configs/cifar10_cpu.yaml --only attack=badnets --budget 8h",
        )
    )
    add_config(
        verb(
            status,
            "what is done, running, failed and missing, and how long the rest takes",
            "status configs/cifar10_cpu.yaml --only attack=badnets",
        ),
        cache=True,
    )
    add_why(
        verb(
            why,
            "where the number of one cell comes from",
            'why configs/cifar10_cpu.yaml attack=badnets "defense=i-BAU"',
        )
    )
    reporting = verb(
        report,
        "tables, figures and pages from rows.csv, without torch",
        "report configs/cifar10_cpu.yaml --columns acc,asr",
    )
    add_config(reporting, cache=False)
    add_report(reporting)
    add_leaderboard(
        verb(
            leaderboard,
            "one page of the rows of several folders or people",
            "leaderboard results/cifar10_cpu theirs/cifar10_cpu",
        )
    )
    showing = verb(
        show,
        "a contact sheet: clean and poisoned images of each attack, trained or not",
        "show configs/cifar10_cpu.yaml --only attack=blended",
    )
    add_config(showing, cache=True)
    add_data(showing)
    exporting = verb(
        export,
        "victims and triggered images in BackdoorBench's layout",
        "export cifar10_cpu --only attack=badnets victims",
    )
    add_config(exporting, cache=True, only=False)
    add_only(exporting)
    exporting.add_argument("folder", type=Path, help="a folder for each victim is made below it")
    add_data(exporting)
    add_new(
        verb(
            new,
            "write a file to begin a plugin with, which works as it is",
            "new defense my_defense --to plugins",
        )
    )
    add_check(
        verb(
            check,
            "whether a plugin keeps its contract, and if not, what to change",
            "check my_defense.py",
        )
    )
    listing = verb(list_plugins, "built-in and installed plugins and their fields", "list defenses")
    listing.add_argument(
        "kind", nargs="?", type=kind_of, help="attacks, defenses, datasets or models (default: all)"
    )
    fetching = verb(fetch, "download a dataset", "fetch cifar10 --data /scratch/data")
    fetching.add_argument("dataset")
    add_data(fetching)
    add_cache(verbs)
    add_bench(
        verb(
            bench,
            "how fast this machine runs the benchmark, against a ceiling",
            "bench --device cpu --only training",
        )
    )
    return parser
