"""What surrounds the method of a job: its data, and a process that it has to leave as it was."""

from __future__ import annotations

import logging
import random
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sau_bench.benchmark.data import Dataset, Task
from sau_bench.benchmark.jobs.leaks import Guard, fingerprint
from sau_bench.benchmark.process import spoil
from sau_bench.benchmark.rules import SEED, UNTOUCHED, check_task, seed_changed

log = logging.getLogger(__name__)


class Surroundings:
    """The data of one job, and the state of the process that it has to leave as it was.

    task: both splits; on the device where the method gets them whole. until_end: what is undone
    when the job ends.
    """

    def __init__(
        self, dataset: Dataset, data: Path, device: torch.device, deterministic: bool
    ) -> None:
        self.dataset, self.data, self.device = dataset, data, device
        self.guard, self.until_end = Guard(), ExitStack()
        self._seed: int | None = None
        self.task, self.fingerprint = _kept_task(dataset, data)
        set_arithmetic(deterministic)
        self.guard.begin()

    def __enter__(self) -> Surroundings:
        return self

    def __exit__(self, *_: object) -> None:
        """However the job has ended: the next one in this process must not know it."""
        self.until_end.close()
        self.check()

    def seed(self, seed: int) -> None:
        """Seed every generator a method may use."""
        self._seed = seed
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def to_device(self) -> Task:
        """The task, moved to the device for good."""
        self.task = self.task.to(self.device)
        return self.task

    def check(self) -> Task:
        """The task as it was read; what the method left changed is put back, and is a warning."""
        self.guard.check()
        if self._seed is not None and seed_changed(self._seed):
            log.warning("%s: it has called torch.manual_seed", SEED)
            self._seed = None
        if fingerprint(self.task.train, self.task.test) != self.fingerprint:
            log.warning("%s: it changed the dataset, which is read anew for the scores", UNTOUCHED)
            spoil("the dataset was changed")
            _kept_task.cache_clear()
            task, read = _kept_task(self.dataset, self.data)
            if read != self.fingerprint:
                raise RuntimeError(f"{self.dataset.name} is another one when it is read again")
            self.task = task.to(self.task.train.y.device)
        return self.task


def read_task(dataset: Dataset, data: Path) -> Task:
    """Both splits on the CPU. data: folder of the datasets.

    Raises:
        InputError: files are missing.
        BrokenRule: images or labels are not what the dataset declares.
    """
    task = dataset(data)
    check_task(dataset, task)
    return task


@lru_cache(maxsize=1)
def _kept_task(dataset: Dataset, data: Path) -> tuple[Task, int]:
    """`read_task`, kept for the next job of the dataset, and the fingerprint of its splits."""
    task = read_task(dataset, data)
    return task, fingerprint(task.train, task.test)


def set_arithmetic(deterministic: bool = True) -> None:
    """Ask for full precision, and for repeatable kernels or for the fastest."""
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    # torch's default rounds convolutions on GPUs; a recipe that wants that says so.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
