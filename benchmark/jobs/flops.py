"""How much arithmetic a training pass takes: for estimates of time, never for results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.loading import load
from sau_bench.benchmark.plugin import IDENTITY, construct
from sau_bench.models.classifier import Architecture


def training_flops(job: Job) -> float:
    """Floating-point operations of one training pass over the job's training set.

    Three times those of a forward pass: the backward pass computes two gradients of its size.
    """
    match job:
        case DefenseJob():
            return training_flops(job.victim)
        case AttackJob() | AssetJob():
            return 3.0 * job.dataset.train_size * _forward(job.dataset, job.architecture)
        case _:
            return 0.0


def described_flops(canonical: Mapping[str, Any]) -> float:
    """`training_flops` of a finished job by its canonical JSON; 0 if its plugins are not here."""
    victim = canonical.get("victim", canonical)
    try:
        parts = [victim["dataset"], victim["architecture"]]
        return _described(*(json.dumps(part, sort_keys=True) for part in parts))
    except (InputError, KeyError, TypeError):
        return 0.0


@lru_cache
def _described(dataset: str, architecture: str) -> float:
    built = [_rebuilt(*pair) for pair in (("datasets", dataset), ("models", architecture))]
    return 3.0 * built[0].train_size * _forward(*built)


def _rebuilt(kind: str, text: str) -> Any:
    part = json.loads(text)
    fields = {name: value for name, value in part.items() if name not in IDENTITY}
    return construct(load(kind, part["plugin"]), fields, part["plugin"])


@lru_cache
def _forward(dataset: Dataset, architecture: Architecture) -> int:
    """Operations of one image's forward pass, counted on shapes alone."""
    with torch.device("meta"):
        model = architecture(dataset).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, *dataset.shape))
    return int(counter.get_total_flops())
