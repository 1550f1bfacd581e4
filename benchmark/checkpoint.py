"""Checkpoints inside a job: an interrupted training is resumed from its last checkpoint.

The job is run again from its start with its seed. Every `benchmark.train.fit` in it that had ended
restores the state at its end, and the one that was running restores the state that was saved,
random generators included. On a CPU the result is equal to the bit to that of a job that was not
interrupted.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """What a checkpoint can hold beside tensors: modules, optimizers, schedules."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


Savable = Stateful | Tensor
_State = dict[str, Any]


@contextmanager
def checkpoints(
    file: Path,
    every: float,
    checkpointed: Sequence[Savable] = (),
    after_save: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Inside the block, trainings are saved to `file` and resumed from it if it exists.

    Args:
        file: removed when the block ends without an exception.
        every: seconds between two saves at least; a save happens between two epochs.
        checkpointed: saved beside the state of each training.
        after_save: called after each save; what it raises interrupts the training, which is how
            tests make an interruption.
    """
    token = _active.set(_Job(file, every, checkpointed, after_save))
    try:
        yield
    finally:
        _active.reset(token)
    file.unlink(missing_ok=True)


def enter(checkpointed: Sequence[Savable]) -> Stage:
    """Begin the next training of the job; restores `checkpointed` from the checkpoint, if any."""
    job = _active.get()
    return job.enter(checkpointed) if job else Stage(0, None, checkpointed)


@dataclass
class Stage:
    """One training of a job. epochs: how many of its epochs are restored instead of run."""

    epochs: int
    job: _Job | None
    checkpointed: Sequence[Savable]

    def save(self, epochs: int) -> None:
        """Save after so many epochs, if it is time to."""
        if self.job:
            self.job.save(epochs, self.checkpointed)

    def end(self) -> None:
        """Remember how this training ended, for the checkpoints of those that follow."""
        if self.job:
            self.job.ended.append(copy.deepcopy(_state(self.checkpointed)))


class _Job:
    def __init__(
        self,
        file: Path,
        every: float,
        checkpointed: Sequence[Savable],
        after_save: Callable[[], None] | None,
    ) -> None:
        self.file, self.every, self.checkpointed = file, every, checkpointed
        self.after_save = after_save
        self.saved = _read(file)
        self.ended: list[_State] = []
        self.stages = 0
        self.saved_at = time.monotonic()

    def enter(self, checkpointed: Sequence[Savable]) -> Stage:
        if len(self.ended) < self.stages:
            # A training that was left before its end cannot be passed over.
            self.every = math.inf
        self.stages += 1
        stage = Stage(0, self, checkpointed)
        if self.saved and self.stages <= len(self.saved["ended"]):
            _restore(checkpointed, self.saved["ended"][self.stages - 1])
            stage.epochs = sys.maxsize
        elif self.saved:
            _restore([*self.checkpointed, *checkpointed], self.saved["state"])
            stage.epochs = self.saved["epochs"]
            log.info("resumed after epoch %d of training %d", stage.epochs, self.stages)
            self.saved = None
        return stage

    def save(self, epochs: int, checkpointed: Sequence[Savable]) -> None:
        if time.monotonic() - self.saved_at < self.every:
            return
        content = {
            "torch": str(torch.__version__),
            "ended": self.ended,
            "epochs": epochs,
            "state": _state([*self.checkpointed, *checkpointed]),
        }
        draft = self.file.with_suffix(f".{os.getpid()}")
        try:
            torch.save(content, draft)
            draft.replace(self.file)
        finally:
            draft.unlink(missing_ok=True)
        self.saved_at = time.monotonic()
        if self.after_save:
            self.after_save()


_active: ContextVar[_Job | None] = ContextVar("checkpoints", default=None)


def _read(file: Path) -> dict[str, Any] | None:
    """The checkpoint; None if there is none, or none that this version of torch can resume."""
    if not file.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        log.warning("%s cannot be read, training starts anew: %s", file.name, reason)
        return None
    return saved if saved["torch"] == str(torch.__version__) else None


def _state(checkpointed: Sequence[Savable]) -> _State:
    numbers: Any = np.random.get_state(legacy=True)
    return {
        "values": [s if isinstance(s, Tensor) else s.state_dict() for s in checkpointed],
        "python": random.getstate(),
        "numpy": tuple(n.tolist() if isinstance(n, np.ndarray) else n for n in numbers),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(checkpointed: Sequence[Savable], state: _State) -> None:
    for target, value in zip(checkpointed, state["values"], strict=True):
        if isinstance(target, Tensor):
            target.copy_(value)
        else:
            target.load_state_dict(value)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
