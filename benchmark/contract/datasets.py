"""What every dataset promises."""

from __future__ import annotations

from pathlib import Path

import torch

from sau_bench.benchmark.data import Dataset, Task
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.plugin import config_name
from sau_bench.benchmark.rules import described, require


def check_dataset(dataset: Dataset) -> None:
    try:
        task = dataset(Path("no-such-folder"))
    except InputError as error:
        named = f"fetch {config_name(type(dataset))}" in str(error)
        require(named, "a missing dataset names the command that makes it", str(error))
        return
    detail = f"`__call__` returned {described(task)}; write `return Task(train, test)`"
    require(isinstance(task, Task), "a dataset returns its two splits", detail)
    check_splits(dataset, task)


def check_splits(dataset: Dataset, task: Task) -> None:
    """What a dataset promises of its images, once its files are there."""
    for split in (task.train, task.test):
        good = split.x.dtype == torch.uint8 and split.x.shape == (len(split), *dataset.shape)
        require(good, "images are uint8 tensors of the declared shape", str(split.x.shape))
        classes = split.y.dtype == torch.int64 and set(split.y.tolist()) == set(
            range(dataset.num_classes)
        )
        require(classes, "labels are int64 and every class occurs")
        require(split.flips == dataset.flips, "splits say whether they may be flipped")
    x = task.train.floats()
    measured = torch.stack((x.mean((0, 2, 3)), x.std((0, 2, 3))))
    near = torch.allclose(measured, torch.tensor([dataset.mean, dataset.std]), atol=0.02)
    require(near, "mean and std describe the training images")
