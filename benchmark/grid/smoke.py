"""A grid made small: the same cells and labels, with jobs that take a moment each.

It answers whether a config runs from end to end, on the code that the real run takes: plugins get
the fields that they declare as `smoke`, datasets are replaced by a few drawn images of at most 20
classes and 32 x 32 pixels, and victims are trained for two epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from sau_bench.attacks.base import Attack
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.grid import Grid
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.plugin import Plugin
from sau_bench.benchmark.train import Recipe

TRAIN, TEST, EPOCHS = 64, 20, 2
"""At least as many images in the two splits, two of each class for training; and the most epochs of
a victim."""
SIZE = 32
"""The largest height and width of an image. On networks as narrow as these, images of 64 x 64 in
the layout "channels last" make torch 2.15 corrupt its memory in the backward pass on a CPU."""
CLASSES = 20
"""The most classes, unless an attack's target is above: searches for a trigger take each."""
CLEAN = 0.25
"""The least share of clean images: of so few images a smaller one is none."""

P = TypeVar("P", bound=Plugin)


def shrunk(grid: Grid) -> Grid:
    """The grid with small jobs; of cells that become the same job, the first one stays."""
    places: dict[Job, Any] = {}
    for job, place in grid.places.items():
        places.setdefault(_small(job), place)
    return Grid(places)


def _small(job: Job) -> Job:
    match job:
        case DefenseJob():
            victim = _small(job.victim)
            assert isinstance(victim, AttackJob)
            ratio = max(job.clean_ratio, CLEAN)
            return replace(job, victim=victim, defense=_quick(job.defense), clean_ratio=ratio)
        case AttackJob() if job.attack.from_files:
            raise InputError(
                f"attack {job.attack.label}: its images are files, which cannot be made small; "
                "accepted by --smoke: attacks that trigger any image (leave it out by --only)"
            )
        case AttackJob():
            common = _common(job, max(part.target for part in job.attack.parts))
            attack = _poisoning(_quick(job.attack), 1 / common["dataset"].train_size)
            return replace(job, attack=attack, **common)
        case AssetJob():
            return replace(job, **_common(job))
        case _:
            raise TypeError(f"{type(job).__name__} is no kind of job")


def _common(job: AttackJob | AssetJob, target: int = 0) -> dict[str, Any]:
    return {
        "dataset": _stand_in(job.dataset, target),
        "architecture": _quick(job.architecture),
        "recipe": _short(job.recipe),
    }


def _stand_in(dataset: Dataset, target: int) -> Dataset:
    classes = min(dataset.num_classes, max(CLASSES, target + 1))
    channels, height, width = dataset.shape
    values = {
        "num_classes": classes,
        "shape": [channels, min(height, SIZE), min(width, SIZE)],
        "flips": dataset.flips,
        "per_class": max(2, -(-TRAIN // classes)),
        "test_per_class": -(-TEST // classes),
    }
    made = build("datasets", {"synthetic": values})
    assert isinstance(made, Dataset)
    return made


def _short(recipe: Recipe) -> Recipe:
    return replace(recipe, epochs=min(recipe.epochs, EPOCHS))


def _quick(plugin: P) -> P:
    """The plugin, and those inside of it, with the fields that make it fast."""
    values: dict[str, Any] = {
        f.name: _quick(value)
        for f in fields(plugin)
        if f.init and isinstance(value := getattr(plugin, f.name), Plugin)
    }
    for name, value in plugin.smoke.items():
        whole = getattr(plugin, name)
        if isinstance(value, Mapping) and is_dataclass(whole) and not isinstance(whole, type):
            value = replace(whole, **value)
        values[name] = value
    return replace(plugin, **values)


def _poisoning(attack: Attack, least: float) -> Attack:
    """The attack with a ratio by which it poisons an image at least. least: share of one image."""
    values: dict[str, Any] = {
        f.name: _poisoning(value, least)
        for f in fields(attack)
        if f.init and isinstance(value := getattr(attack, f.name), Attack)
    }
    if not values and attack.ratio < least:
        values["ratio"] = least
    return replace(attack, **values)
