"""What every dataset promises."""

from __future__ import annotations

from pathlib import Path

import torch

from sau_bench.benchmark.data import Dataset, Task
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.plugin import config_name
from sau_bench.benchmark.rules import check_task, require


def check_dataset(dataset: Dataset) -> None:
    try:
        task = dataset(Path("no-such-folder"))
    except InputError as error:
        named = f"fetch {config_name(type(dataset))}" in str(error)
        require(named, "a missing dataset names the command that makes it", str(error))
        return
    check_splits(dataset, task)


def check_splits(dataset: Dataset, task: Task) -> None:
    """What a dataset promises of its images, once its files are there."""
    check_task(dataset, task)
    x = task.train.floats()
    measured = torch.stack((x.mean((0, 2, 3)), x.std((0, 2, 3))))
    near = torch.allclose(measured, torch.tensor([dataset.mean, dataset.std]), atol=0.02)
    require(near, "mean and std describe the training images")
