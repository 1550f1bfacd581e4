"""Checkpoints inside a job: a training that was interrupted goes on where it was last saved.

The job is replayed from its start with its seed. Each `benchmark.train.fit` in it that had ended
takes up the state that it had ended with, and the one that was running the state that was saved,
random generators included. On a CPU the outcome is the same to the bit as without the interruption.
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
from collections.abc import Iterator, Sequence
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
    """What a checkpoint can hold beside tensors: modules, optimisers, schedules."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


Kept = Stateful | Tensor
_State = dict[str, Any]


@contextmanager
def checkpoints(file: Path, every: float, keeps: Sequence[Kept] = ()) -> Iterator[None]:
    """Inside the block, trainings are saved to `file` and go on from it if it exists.

    file: removed when the block ends without an exception. every: seconds between two saves at
    least; a save happens between two epochs. keeps: saved beside the state of each training.
    """
    token = _active.set(_Job(file, every, keeps))
    try:
        yield
    finally:
        _active.reset(token)
    file.unlink(missing_ok=True)


def enter(keeps: Sequence[Kept]) -> Stage:
    """The next training of the job; takes up the saved state of `keeps` if it was this one's."""
    job = _active.get()
    return job.enter(keeps) if job else Stage(0, None, keeps)


@dataclass
class Stage:
    """One training of a job. epochs: how many of it need not be run again."""

    epochs: int
    job: _Job | None
    keeps: Sequence[Kept]

    def save(self, epochs: int) -> None:
        """Save after so many epochs, if it is time to."""
        if self.job:
            self.job.save(epochs, self.keeps)

    def end(self) -> None:
        """Remember how this training ended, for the checkpoints of those that follow."""
        if self.job:
            self.job.ended.append(copy.deepcopy(_state(self.keeps)))


class _Job:
    def __init__(self, file: Path, every: float, keeps: Sequence[Kept]) -> None:
        self.file, self.every, self.keeps = file, every, keeps
        self.saved = _read(file)
        self.ended: list[_State] = []
        self.stages = 0
        self.saved_at = time.monotonic()

    def enter(self, keeps: Sequence[Kept]) -> Stage:
        if len(self.ended) < self.stages:
            # A training that was left before its end cannot be passed over.
            self.every = math.inf
        self.stages += 1
        stage = Stage(0, self, keeps)
        if self.saved and self.stages <= len(self.saved["ended"]):
            _restore(keeps, self.saved["ended"][self.stages - 1])
            stage.epochs = sys.maxsize
        elif self.saved:
            _restore([*self.keeps, *keeps], self.saved["state"])
            stage.epochs = self.saved["epochs"]
            log.info("resumed after epoch %d of training %d", stage.epochs, self.stages)
            self.saved = None
        return stage

    def save(self, epochs: int, keeps: Sequence[Kept]) -> None:
        if time.monotonic() - self.saved_at < self.every:
            return
        content = {
            "torch": str(torch.__version__),
            "ended": self.ended,
            "epochs": epochs,
            "state": _state([*self.keeps, *keeps]),
        }
        draft = self.file.with_suffix(f".{os.getpid()}")
        try:
            torch.save(content, draft)
            draft.replace(self.file)
        finally:
            draft.unlink(missing_ok=True)
        self.saved_at = time.monotonic()


_active: ContextVar[_Job | None] = ContextVar("checkpoints", default=None)


def _read(file: Path) -> dict[str, Any] | None:
    """The checkpoint; None if there is none that this version of torch could go on from."""
    if not file.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        log.warning("%s cannot be read, training starts anew: %s", file.name, reason)
        return None
    return saved if saved["torch"] == str(torch.__version__) else None


def _state(keeps: Sequence[Kept]) -> _State:
    numbers: Any = np.random.get_state(legacy=True)
    return {
        "kept": [k if isinstance(k, Tensor) else k.state_dict() for k in keeps],
        "python": random.getstate(),
        "numpy": tuple(n.tolist() if isinstance(n, np.ndarray) else n for n in numbers),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(keeps: Sequence[Kept], state: _State) -> None:
    for kept, value in zip(keeps, state["kept"], strict=True):
        if isinstance(kept, Tensor):
            kept.copy_(value)
        else:
            kept.load_state_dict(value)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
