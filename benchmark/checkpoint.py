"""Checkpoints inside a job: an interrupted training is resumed from its last checkpoint.

The job is run again from its start with its seed. Every `benchmark.train.fit` in it that had ended
restores the state at its end, and the one that was running restores the state that was saved,
random generators included. On a CPU the result is equal to the bit to that of a job that was not
interrupted.

A checkpoint is used only if it is whole, of this job and of this version of torch, and fits the
training; any other is named in the log and the training starts anew.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import math
import os
import random
import shutil
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

from sau_bench.benchmark.errors import one_line

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
    *,
    key: str = "",
) -> Iterator[None]:
    """Inside the block, trainings are saved to `file` and resumed from it if it exists.

    Args:
        file: removed when the block ends without an exception.
        every: seconds between two saves at least; a save happens between two epochs.
        checkpointed: saved beside the state of each training.
        after_save: called after each save; what it raises interrupts the training, which is how
            tests make an interruption.
        key: of the job; a checkpoint that was saved under another one is not used.
    """
    token = _active.set(_Job(file, every, checkpointed, after_save, key))
    try:
        yield
    finally:
        _active.reset(token)
    file.unlink(missing_ok=True)


def enter(checkpointed: Sequence[Savable], epochs: int) -> Stage:
    """Begin the next training of the job; restores `checkpointed` from the checkpoint, if any.

    epochs: of the training; a checkpoint that claims more is not used.
    """
    job = _active.get()
    return job.enter(checkpointed, epochs) if job else Stage(0, None, checkpointed)


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
        key: str,
    ) -> None:
        self.file, self.every, self.checkpointed = file, every, checkpointed
        self.after_save, self.key = after_save, key
        self.saved = _read(file, key)
        self.ended: list[_State] = []
        self.stages = 0
        self.saved_at = time.monotonic()

    def enter(self, checkpointed: Sequence[Savable], epochs: int) -> Stage:
        if len(self.ended) < self.stages:
            # A training that was left before its end cannot be passed over.
            self.every = math.inf
        self.stages += 1
        stage = Stage(0, self, checkpointed)
        if self.saved and self.stages <= len(self.saved["ended"]):
            if self._restored(checkpointed, self.saved["ended"][self.stages - 1]):
                stage.epochs = sys.maxsize
        elif self.saved:
            done, state, everything = self.saved["epochs"], self.saved["state"], self.checkpointed
            if done not in range(1, epochs + 1):
                _refuse(self.file, f"it claims {done} epochs of {epochs}")
            elif self._restored([*everything, *checkpointed], state):
                stage.epochs = done
                log.info("resumed after epoch %d of training %d", done, self.stages)
            self.saved = None
        return stage

    def _restored(self, checkpointed: Sequence[Savable], state: _State) -> bool:
        """Whether the state fits; if it does not, everything is as if there were no checkpoint."""
        before = copy.deepcopy(_state(checkpointed))
        try:
            _restore(checkpointed, state)
        except Exception as error:  # whatever a state of another form makes its readers raise
            _restore(checkpointed, before)
            _refuse(self.file, f"it does not fit: {type(error).__name__}: {one_line(error)}")
            self.saved = None
            return False
        return True

    def save(self, epochs: int, checkpointed: Sequence[Savable]) -> None:
        if time.monotonic() - self.saved_at < self.every:
            return
        content = {
            "key": self.key,
            "torch": str(torch.__version__),
            "ended": self.ended,
            "epochs": epochs,
            "state": _state([*self.checkpointed, *checkpointed]),
        }
        draft = self.file.with_suffix(f".{os.getpid()}")
        try:
            torch.save(content, draft)
            with draft.open("rb+") as stream:
                digest = hashlib.sha256()
                while block := stream.read(1 << 20):
                    digest.update(block)
                stream.write(digest.digest())
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self.file)
        finally:
            draft.unlink(missing_ok=True)
        self.saved_at = time.monotonic()
        if self.after_save:
            self.after_save()


_active: ContextVar[_Job | None] = ContextVar("checkpoints", default=None)


def _read(file: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint; None if there is none, or none that this job can be resumed from."""
    if not os.path.lexists(file):
        return None
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)  # no file can replace it
            raise ValueError("it is no file")
        size = hashlib.sha256().digest_size
        content = file.read_bytes()
        if hashlib.sha256(content[:-size]).digest() != content[-size:]:
            raise ValueError("its checksum differs")
        saved: Any = torch.load(io.BytesIO(content[:-size]), "cpu", weights_only=True)
        if saved["key"] != key:
            raise ValueError(f"it is of the job {saved['key']}")
        if saved["torch"] != str(torch.__version__):
            raise ValueError(f"it is of torch {saved['torch']}")
        return {name: saved[name] for name in ("ended", "epochs", "state")}
    except Exception as error:  # a file of another form makes its readers raise anything
        _refuse(file, one_line(error))
        return None


def _refuse(file: Path, reason: str) -> None:
    log.info("checkpoint %s is not used, the training starts anew: %s", file, reason)


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
