"""Models of finished cells, by the names that a table has for them; for scripts, not a verb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.find import find_cell
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.networks import load_defended, load_victim
from sau_bench.models.classifier import Classifier


def load_model(
    config: Path,
    only: Sequence[str],
    cache: Path = Path("results/cache"),
    device: str = "cpu",
    step: int | None = None,
) -> Classifier:
    """The trained model of one cell of a grid, in evaluation mode.

    Args:
        config, only: see `benchmark.cli.find.one_cell`.
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
