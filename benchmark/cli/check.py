"""The verb `check`: whether a plugin keeps its contract, tried in a process of its own."""

from __future__ import annotations

import argparse
import inspect
import linecache
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from sau_bench.benchmark.cli.options import kind_of, seconds
from sau_bench.benchmark.errors import InputError, nearest, one_line, printable, shown
from sau_bench.benchmark.run.failures import NotStarted, Overdue, WorkerLost
from sau_bench.benchmark.run.worker import Worker

FINE, BROKEN, BAD_INPUT = 0, 1, 2
METHODS = {
    "attacks": ("trigger", "__call__"),
    "defenses": ("__call__",),
    "datasets": ("__call__",),
    "models": ("__call__",),
}
"""The methods that break most rules: the line to look at where no other is known."""
LINE = 1_000
"""Characters of a line of the verdict."""
Verdict = tuple[int, list[str]]
"""The exit status, and lines for people; of bad input one line."""


def check(arguments: argparse.Namespace) -> int:
    """Print what rule the plugin breaks, or which it keeps; 0 if it keeps all."""
    limit, name = seconds(arguments.time_limit, "--time-limit"), str(arguments.plugin)
    if name.endswith(".py") and not Path(name).is_file():
        raise InputError(f"no plugin file {shown(name, 200)}")
    worker = Worker({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    try:
        status, lines = worker.call(verdict, name, arguments.kind, limit=limit)
    except Overdue:
        status, lines = BROKEN, [
            f"{name}: it took longer than {arguments.time_limit} (--time-limit) on 96 images of "
            "digits: does it end? `smoke` holds field values that make it fast in tests"
        ]  # fmt: skip
    except WorkerLost as error:
        status, lines = BROKEN, [f"{name}: it ends its process ({one_line(error)})"]
    except NotStarted as error:
        raise InputError(str(error)) from None
    finally:
        worker.kill(wait=True)
    if status == BAD_INPUT:
        raise InputError(lines[0])
    for line in lines:
        print(printable(line, LINE))
    return status


def verdict(name: str, kind: str | None) -> Verdict:
    """In the worker: what `check` prints of a plugin. kind: found by the class where it is None."""
    from sau_bench.benchmark.contract.manners import manners
    from sau_bench.benchmark.loading import kinds_of
    from sau_bench.benchmark.rules import BrokenRule

    file = Path(name).resolve()

    def importing() -> list[str]:
        with manners(file):
            return kinds_of(str(file) if name.endswith(".py") else name)

    try:
        kinds = importing()
        if not name.endswith(".py") and not kinds:
            return BAD_INPUT, [_unknown(name)]
        if kind and kinds and kind not in kinds:
            return BAD_INPUT, [f"{name} is no {kind[:-1]}; accepted: {_listed(kinds)}"]
        if not kind and len(kinds) > 1:
            return BAD_INPUT, [f"{name} is a name of {len(kinds)} plugins; add {_listed(kinds)}"]
        return _checked(name, kind or (kinds[0] if kinds else None))
    except BrokenRule as broken:  # by what the file does when it is imported
        return BROKEN, _told(name, file, broken.line, f"importing it, {broken}")
    except InputError as error:
        return BROKEN, _told(name, file, _line_of(error.__cause__, file), _without(file, error))


def _checked(name: str, kind: str | None) -> Verdict:
    from sau_bench.benchmark import contract
    from sau_bench.benchmark.loading import load, no_plugin
    from sau_bench.benchmark.rules import BrokenRule, file_of

    where = str(Path(name).resolve()) if name.endswith(".py") else name
    if kind is None:
        raise InputError(no_plugin(where))
    cls, start = load(kind, where), time.perf_counter()
    file = file_of(cls)
    try:
        rules = contract.check(kind, cls)
    except BrokenRule as broken:
        # An error that came before: the traceback has its line, too.
        line = broken.line or _line_of(broken.__cause__, file) or _method(cls, kind)
        return BROKEN, _told(name, file, line, str(broken))
    except BaseException as error:  # whatever it raises, sys.exit included
        text = f"{type(error).__name__}: {one_line(error)}"
        return BROKEN, _told(name, file, _line_of(error, file), f"it raised {text}")
    took = time.perf_counter() - start
    head = (
        f"{name}: {kind[:-1]} {cls.name!r} keeps its contract, {len(rules)} rules in {took:.1f} s:"
    )
    return FINE, [head, *(f"  {rule}" for rule in rules)]


def _told(name: str, file: Path, line: int | None, text: str) -> list[str]:
    """What is wrong, and the line of the file where it is known."""
    if line is None:
        return [f"{name}: {text}"]
    shown_name = name if name.endswith(".py") else str(file)
    code = linecache.getline(str(file), line).strip()
    return [f"{shown_name}:{line}: {text}", *([f"    {code}"] if code else [])]


def _line_of(error: BaseException | None, file: Path) -> int | None:
    """The line of the file that an error went through last, or that has bad syntax."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__) if error else []
    return next((f.lineno for f in reversed(frames) if f.filename == str(file)), None)


def _method(cls: type, kind: str) -> int | None:
    """The line on which the method begins that breaks most rules of the kind."""
    for name in METHODS[kind]:
        method: Callable[..., object] | None = vars(cls).get(name)
        if method is not None:
            return inspect.getsourcelines(method)[1]
    return None


def _unknown(name: str) -> str:
    from sau_bench.benchmark.loading import plugin_names
    from sau_bench.benchmark.plugin import KINDS

    known = [known for kind in KINDS for known in plugin_names(kind)]
    text = f"no plugin {shown(name)}; accepted: the path of a .py file, or a name of `list`"
    return f"{text}{nearest(name, known)}"


def _listed(kinds: list[str]) -> str:
    return " or ".join(kind[:-1] for kind in kinds)


def _without(file: Path, error: InputError) -> str:
    """The text of an error that begins with the path, without it."""
    return one_line(error).removeprefix(str(file)).lstrip(": ")


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plugin", metavar="PATH|NAME", help="a .py file, or a name of `list`")
    text = "attack, defense, dataset or model (default: what its class derives from)"
    parser.add_argument("kind", nargs="?", type=kind_of, help=text)
    text = "how long it may take, such as 90s (default: 5m)"
    parser.add_argument("--time-limit", default="5m", help=text)
