"""What a worker does with a job of a grid. Workers import it, and with it torch, at their start."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.cache.store import Store
from benchmark.jobs.job import Job
from benchmark.jobs.run_job import execute


def work(job: Job, cache: Path, data: Path, micro_batches: int = 1) -> None:
    """Run one job in this worker, on the one device it can see."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    execute(job, Store(cache), device, data)
