"""Run one job. The only place that holds test data and scores a model."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from attacks.asset import CleanModel
from attacks.base import poison_test
from benchmark.checkpoint import checkpoints
from benchmark.cost import Clock, hardware
from benchmark.data import Dataset, Images, Task, draw_clean
from benchmark.errors import InputError
from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from benchmark.jobs.journal import journal
from benchmark.jobs.leaks import Guard, fingerprint
from benchmark.metrics import Poisoned, predict, score, share
from benchmark.notes import note
from benchmark.process import spoil
from benchmark.rows import Row
from defenses.base import NotApplicable
from models.classifier import Classifier

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 300.0
"""Seconds between two checkpoints of an attack's training; one takes a fraction of a second."""


class Draft(Protocol):
    """A folder that a job fills, see `benchmark.cache.store`."""

    @property
    def folder(self) -> Path: ...

    def write_json(self, name: str, value: Any) -> None: ...

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None: ...


class Store(Protocol):
    """Where results of jobs are, by key; `benchmark.cache.store.Store` is the one there is."""

    def __contains__(self, key: str) -> bool: ...

    def rows(self, key: str) -> list[Row]: ...

    def tensors(self, key: str, device: str = ...) -> dict[str, Tensor]: ...

    def draft(self, key: str) -> AbstractContextManager[Draft]: ...

    def checkpoint(self, key: str) -> Path: ...


def run_job(job: Job, store: Store, data: Path, device: torch.device | None = None) -> None:
    """Run the job and publish its folder; a job that is published already is left alone.

    Args:
        data: folder of the datasets.
        device: by default the one GPU that this process sees, or else the CPU.

    Raises:
        InputError: the text of a plugin, or a file that enters the key, is not what it was when the
            job was planned.
        Exception: whatever the method raises; nothing is published then.
    """
    if job.key in store:
        return
    if changes := job.changes():
        raise InputError(
            f"{job}: changed since the job was planned: {', '.join(changes)}; run again"
        )
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with store.draft(job.key) as draft:
        draft.write_json("job.json", job.identity)
        draft.write_json("texts.json", job.texts)
        with journal(draft.folder / "log.jsonl", job.plugins.values()) as texts:
            match job:
                case AssetJob():
                    with _Run(job.dataset, data, device) as run:
                        rows = _make_asset(job, run, store, draft)
                case AttackJob():
                    with _Run(job.dataset, data, device) as run:
                        rows = _attack(job, run, store, draft)
                case DefenseJob():
                    with _Run(job.victim.dataset, data, device) as run:
                        rows = _defend(job, run, store)
                case _:
                    raise TypeError(f"{type(job).__name__} is no kind of job")
        common = {**texts(), **hardware(device)}
        draft.write_json("rows.json", [row | common for row in rows])


def load_victim(
    job: AttackJob, store: Store, device: torch.device
) -> tuple[Classifier, dict[str, Tensor]]:
    """The trained model of a finished job, and the tensors beside its weights."""
    tensors = store.tensors(job.key, str(device))
    model = make_model(job, device)
    weights = {name: tensors.pop(f"model.{name}") for name in model.state_dict()}
    model.load_state_dict(weights)
    return model, tensors


def make_model(job: AssetJob | AttackJob, device: torch.device) -> Classifier:
    """The freshly initialised network of a job."""
    # Channels last is the faster layout for convolutions, on a CPU by a fifth (see measurements/).
    return job.architecture(job.dataset).to(device).to(memory_format=torch.channels_last)


class _Run:
    """The data of one job, and the state of the process that it has to leave as it was.

    task: both splits; on the device where the method gets them whole.
    """

    def __init__(self, dataset: Dataset, data: Path, device: torch.device) -> None:
        self.dataset, self.data, self.device = dataset, data, device
        self.guard = Guard()
        self.task, self.fingerprint = _task(dataset, data)
        set_arithmetic()
        self.guard.begin()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        """However the job has ended: the next one in this process must not know it."""
        self.check()

    def to_device(self) -> Task:
        """The task, moved to the device for good."""
        self.task = self.task.to(self.device)
        return self.task

    def check(self) -> Task:
        """The task as it was read; what the method left changed is put back, and is a warning."""
        self.guard.check()
        if fingerprint(self.task.train, self.task.test) != self.fingerprint:
            log.warning("the method changed the dataset in place; it is read anew for the scores")
            spoil("the dataset was changed")
            _task.cache_clear()
            task, read = _task(self.dataset, self.data)
            if read != self.fingerprint:
                raise RuntimeError(f"{self.dataset.name} is another one when it is read again")
            self.task = task.to(self.task.train.y.device)
        return self.task


def _make_asset(job: AssetJob, run: _Run, store: Store, draft: Draft) -> list[Row]:
    task, device = run.to_device(), run.device
    _seed(job.seed)
    model = make_model(job, device)
    if job.clean_model:
        model.load_state_dict(store.tensors(job.clean_model.key, str(device)))
    # Again: an asset that ignores the model must not depend on what drawing it consumed.
    _seed(job.seed)
    clock = Clock(device)
    with _training(job, store, clock):
        tensors = job.asset(model, task.train, job.recipe)
    task = run.check()
    draft.write_tensors("tensors.safetensors", tensors)
    if not isinstance(job.asset, CleanModel):
        return [{"kind": "asset", "step": 0, **clock.reading()}]
    scores = score(model, task.test) | clock.reading()
    return [{"kind": "clean", "step": 0, "poison_ratio": 0.0, **scores}]


def _attack(job: AttackJob, run: _Run, store: Store, draft: Draft) -> list[Row]:
    attack, train, device = job.attack, run.to_device().train, run.device
    _seed(job.seed)
    rows = attack.draw(train.y, job.seed)
    model = make_model(job, device)
    asset = store.tensors(job.asset.key, str(device)) if job.asset else {}
    clock = Clock(device)
    with _training(job, store, clock):
        trigger = attack(model, train, rows, job.recipe, asset)
    task = run.check()
    train = task.train
    poisoned = poison_test(task.test, attack, trigger, model.num_classes)
    # Again: what is drawn for the exported set must not depend on how the training was resumed.
    _seed(job.seed)
    stamped = attack.poisoned_set(train, rows, trigger, model.num_classes, job.recipe.batch_size)
    task = run.check()
    train = task.train
    changed = ((stamped.x != train.x).flatten(1).any(1) | (stamped.y != train.y)).nonzero()[:, 0]
    draft.write_tensors(
        "tensors.safetensors",
        {f"model.{name}": value for name, value in model.state_dict().items()}
        | {"test.x": poisoned.data.x, "test.y": poisoned.data.y}
        | {"test.wanted": poisoned.wanted, "test.part": poisoned.part}
        | {"train.rows": changed, "train.x": stamped.x[changed], "train.y": stamped.y[changed]},
    )
    scores = {**score(model, task.test, poisoned), **clock.reading()}
    return [{"kind": "victim", "step": 0, "poison_ratio": len(rows) / len(train), **scores}]


def _defend(job: DefenseJob, run: _Run, store: Store) -> list[Row]:
    defense, task, device = job.defense, run.task, run.device
    model, tensors = load_victim(job.victim, store, device)
    test = task.test.to(device)
    triggered = Images(tensors["test.x"], tensors["test.y"], test.flips)
    poisoned = Poisoned(triggered, tensors["test.wanted"], tensors["test.part"])
    _seed(job.victim.seed)
    poison_ratio = store.rows(job.victim.key)[0]["poison_ratio"]
    common: Row = {"kind": defense.yields, "poison_ratio": poison_ratio}
    if defense.uses == "clean":
        rows = draw_clean(len(task.train), job.clean_ratio, job.victim.seed)
        data = task.train[rows].to(device)
        common["own_acc_before"] = share(predict(model, data) == data.y)
        model.train()  # as every defense gets it
    else:
        data = _poisoned_training_set(task.train.to(device), tensors)
    clock = Clock(device)

    def measure(step: int, value: float | None, model: torch.nn.Module) -> Row:
        row = common | {"step": step, "value": value}
        with run.guard.aside():
            if defense.uses == "clean":
                # Drawn again: the method may have changed the images that it was handed.
                known = task.train[rows].to(device)
                row["own_acc"] = share(predict(model, known) == known.y)
            return row | score(model, test, poisoned) | clock.reading()

    scored: list[Row] = []
    every = job.score_every if defense.yields == "rounds" else 1
    pending = None
    try:
        for step, result in enumerate(clock.timed(defense(model, data)), start=1):
            value, defended = result if isinstance(result, tuple) else (None, result)
            pending = (step, value, defended)
            if step % every == 0:
                scored.append(measure(*pending))
                pending = None
    except NotApplicable as reason:
        note("%s", reason)
        return [common | {"step": 0, "status": "not applicable"} | clock.reading()]
    if pending is not None:
        scored.append(measure(*pending))
    if not scored:
        raise RuntimeError(f"{defense.label} yielded no model")
    return scored


def _poisoned_training_set(train: Images, tensors: dict[str, Tensor]) -> Images:
    x, y = train.x.clone(), train.y.clone()
    x[tensors["train.rows"]], y[tensors["train.rows"]] = tensors["train.x"], tensors["train.y"]
    return Images(x, y, train.flips)


@contextmanager
def _training(job: Job, store: Store, clock: Clock) -> Iterator[None]:
    """Inside the block the clock runs, and trainings are saved and resumed."""
    file = store.checkpoint(job.key)
    with checkpoints(file, CHECKPOINT_EVERY, (clock,), key=job.key), clock.running():
        yield


@lru_cache(maxsize=1)
def _task(dataset: Dataset, data: Path) -> tuple[Task, int]:
    """Both splits on the CPU, and their fingerprint."""
    task = dataset(data)
    return task, fingerprint(task.train, task.test)


def _seed(seed: int) -> None:
    """Seed every generator a method may use."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_arithmetic(deterministic: bool = True) -> None:
    """Ask for full precision, and for repeatable kernels or for the fastest."""
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    # torch's default rounds convolutions on GPUs; a recipe that wants that says so.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
