"""Models of finished cells, by the names that a table has for them; for scripts, not a verb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError, shown
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.grid.labels import filters_of
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.run_job import load_defended, load_victim
from sau_bench.benchmark.plugin import Plugin, plugin_name
from sau_bench.models.classifier import Classifier


def find_cell(config: Path, only: Sequence[str]) -> AttackJob | DefenseJob:
    """The job of the one cell of a grid that names select.

    Args:
        config: of the grid.
        only: texts such as "attack=badnets,defense=SAU", with names of plugins or labels of the
            tables; "defense=No Defense" is the victim.

    Raises:
        InputError: the names select no cell or several.
    """
    grid, filters = make_grid(read(config)), filters_of(only, "only")

    def is_wanted(victim: AttackJob, defended: DefenseJob | None) -> bool:
        plugins: dict[str, Plugin] = {
            "dataset": victim.dataset,
            "model": victim.architecture,
            "attack": victim.attack,
        }
        if defended:
            plugins["defense"] = defended.defense
        names = {axis: {str(name)} for axis, name in grid.place(victim, defended).items()}
        for axis, plugin in plugins.items():
            names[axis].add(plugin_name(plugin))
        return all(names[axis] & chosen for axis, chosen in filters.items())

    found = [(victim, defended) for victim, defended in grid.cells() if is_wanted(victim, defended)]
    if len(found) != 1:
        raise InputError(f"{shown(', '.join(only), 200)} selects {len(found)} cells, accepted: one")
    ((victim, defended),) = found
    return defended or victim


def load_model(
    config: Path,
    only: Sequence[str],
    cache: Path = Path("results/cache"),
    device: str = "cpu",
    step: int | None = None,
) -> Classifier:
    """The trained model of one cell of a grid, in evaluation mode.

    Args:
        config, only: see `find_cell`.
        cache: folder of the jobs.
        device: to load onto.
        step: round or candidate of a defense; needed where several were kept.

    Raises:
        InputError: no such cell, not finished, or run without `keep: [defended]` in the config.
    """
    job, store = find_cell(config, only), Store(cache)
    if job.key not in store:
        raise InputError(f"{job} is not finished in {str(cache)!r}; first: run {config}")
    if isinstance(job, DefenseJob):
        return load_defended(job, store, torch.device(device), step).eval()
    return load_victim(job, store, torch.device(device))[0].eval()
