"""How much arithmetic a training pass takes: for estimates of time, never for results."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.data import Dataset
from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from models.classifier import Architecture


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


@lru_cache
def _forward(dataset: Dataset, architecture: Architecture) -> int:
    """Operations of one image's forward pass, counted on shapes alone."""
    with torch.device("meta"):
        model = architecture(dataset).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, *dataset.shape))
    return int(counter.get_total_flops())
