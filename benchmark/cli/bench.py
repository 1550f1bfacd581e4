"""The verb `bench`: how fast this machine runs the benchmark; the work is in `measurements/`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from sau_bench.benchmark.cli.options import seconds
from sau_bench.benchmark.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
"""The top level of a clone; of an installed package nothing."""


def bench(arguments: argparse.Namespace) -> int:
    """Measure speed, ceilings and a plain pipeline beside it; write JSON and a table."""
    if not (ROOT / "measurements" / "bench").is_dir():
        raise InputError(f"bench needs the folder measurements/ of a clone; {ROOT} has none")
    budget = seconds(arguments.budget, "--budget")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    status: int = importlib.import_module("measurements.bench.run").run(
        device=arguments.device,
        model=arguments.model,
        dataset=arguments.dataset,
        out=arguments.out,
        only=arguments.only,
        budget=budget,
        deterministic=arguments.deterministic,
    )
    return status


def add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)"
    )
    parser.add_argument(
        "--model", default="preact_resnet18:64", help="the network (default: preact_resnet18:64)"
    )
    parser.add_argument(
        "--dataset",
        default="cifar10",
        help="whose shape random images have; no file is read (default: cifar10)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/bench"),
        help="folder of bench.json and bench.md (default: results/bench)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="one item of the table, or one of training, scoring, stamping, defenses, start-up, "
        "growth; may be repeated",
    )
    parser.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether kernels of a GPU have to repeat their bits",
    )
    parser.add_argument(
        "--budget",
        default="9m",
        help="time for everything; fewer images and rounds when it is short (default: 9m)",
    )
