"""How cost grows with images, epochs, width, classes and jobs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch

from measurements.bench.defenses import product_defense, product_rounds
from measurements.bench.setting import Item, Record, Setting
from measurements.bench.startup import PER_SEED, VERB, finished_grid, run_process
from measurements.bench.turns import as_in_a_job, synchronize
from measurements.bench.work import BATCH, ENDLESS
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.jobs.networks import make_model
from sau_bench.benchmark.train import Recipe, fit

UNIT = {"cpu": 64, "cuda": 6400}
"""Images of the smallest case."""


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def epoch_seconds(setting: Setting, count: int) -> float:
    """Seconds of the second epoch of a training on `count` images."""
    recipe = Recipe(epochs=ENDLESS, batch_size=BATCH, precision="bf16", schedule="constant")
    model = make_model(setting.job, setting.device)
    epochs = fit(model, setting.images(count), recipe)
    next(epochs)
    return seconds_of(lambda: next(epochs), setting.device)


def by_images(setting: Setting) -> list[tuple[int, float]]:
    unit = UNIT[setting.device.type]
    return [(count, epoch_seconds(setting, count)) for count in (unit, 2 * unit, 4 * unit)]


def by_epochs(setting: Setting) -> list[tuple[int, float]]:
    recipe = Recipe(epochs=ENDLESS, batch_size=BATCH, precision="bf16", schedule="constant")
    data = setting.images(UNIT[setting.device.type])
    epochs = fit(make_model(setting.job, setting.device), data, recipe)
    next(epochs)
    taken = [seconds_of(lambda: next(epochs), setting.device) for _ in range(4)]
    return [(count, sum(taken[:count])) for count in (1, 2, 4)]


def by_width(setting: Setting) -> list[tuple[int, float]]:
    """Nothing for networks without a width."""
    architecture: Any = setting.architecture
    if "width" not in {field.name for field in fields(architecture)}:
        return []
    widths = sorted({max(1, architecture.width // part) for part in (4, 2, 1)})
    settings = (replace(setting, architecture=replace(architecture, width=w)) for w in widths)
    unit = 2 * UNIT[setting.device.type]
    return [(s.architecture.width, epoch_seconds(s, unit)) for s in settings]  # type: ignore[attr-defined]


def with_classes(dataset: Dataset, count: int) -> Dataset:
    """The dataset's shape with another number of classes."""
    cls: type[Dataset] = type(f"Classes{count}", (type(dataset),), {"num_classes": count})
    return cls()


def by_classes(setting: Setting) -> list[tuple[int, float]]:
    """An epoch of the search of NC."""
    points = []
    count = UNIT[setting.device.type] // 4
    for classes in (10, 20, 40):
        changed = replace(setting, dataset=with_classes(setting.dataset, classes))
        model = make_model(changed.job, changed.device)
        defense = product_defense("nc", count, "bf16")
        rounds = product_rounds(defense, model, changed.images(count))
        points.append((classes, seconds_of(partial(next, rounds), changed.device)))
    return points


def by_jobs(setting: Setting) -> list[tuple[int, float]]:
    """`run` of a finished grid, in a fresh process; the second time, when all files are there."""
    points = []
    for jobs in (PER_SEED, 3 * PER_SEED, 10 * PER_SEED):
        command = [sys.executable, VERB, "run", *finished_grid(jobs)]
        run_process(command)
        points.append((jobs, run_process(command)[0]))
    return points


def measure_growth(
    name: str, cases: Callable[[Setting], list[tuple[int, float]]], setting: Setting, _: float
) -> Record:
    """All cases once, and the power that joins the first to the last."""
    as_in_a_job(setting.deterministic)
    points = cases(setting)
    power = None
    if len(points) > 1:
        (low, first), (high, last) = points[0], points[-1]
        power = math.log(last / first) / math.log(high / low)
    listed = ", ".join(f"{x:,}: {seconds:.3g} s" for x, seconds in points)
    return Record(
        group="growth", name=name, unit="power", product=power or 0.0,
        note=listed or "the network has no width",
    )  # fmt: skip


GROWTH = [
    Item("growth", name, 8, partial(measure_growth, name, cases))
    for name, cases in (
        ("images: an epoch of training", by_images),
        ("epochs: a training", by_epochs),
        ("width: an epoch of training", by_width),
        ("classes: an epoch of NC's search", by_classes),
        ("jobs: run of a finished grid", by_jobs),
    )
]
