"""Run one job. The only place that holds test data and scores a model."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from attacks.asset import CleanModel
from attacks.base import poison_test
from benchmark.cache.store import Row, Store, write_json, write_tensors
from benchmark.checkpoint import checkpoints
from benchmark.cost import Clock, hardware
from benchmark.data import Dataset, Images, Task, draw_clean
from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job, describe, key
from benchmark.metrics import Poisoned, predict, score, share
from benchmark.notes import NOTE
from defenses.base import NotApplicable
from models.classifier import Classifier

CHECKPOINT_EVERY = 300.0
"""Seconds between two checkpoints of an attack's training; one takes a fraction of a second."""


def execute(job: Job, store: Store, device: torch.device, data: Path) -> None:
    """Run the job and publish its folder; a job that is published already is left alone.

    Raises:
        Exception: whatever the method raises; nothing is published then.
    """
    if key(job) in store:
        return
    with store.draft(key(job)) as folder:
        write_json(folder / "job.json", json.loads(describe(job)))
        with _journal(folder / "log.jsonl") as notes:
            task = _task((job.victim if isinstance(job, DefenseJob) else job).dataset, data)
            match job:
                case AssetJob():
                    rows = _make_asset(job, task.to(device), store, folder)
                case AttackJob():
                    rows = _attack(job, task.to(device), store, folder)
                case DefenseJob():
                    rows = _defend(job, task, store, device)
        common = {"note": "; ".join(dict.fromkeys(notes)), **hardware(device)}
        write_json(folder / "rows.json", [row | common for row in rows])


def load_victim(
    job: AttackJob, store: Store, device: torch.device
) -> tuple[Classifier, dict[str, Tensor]]:
    """The trained model of a finished job, and the tensors beside its weights."""
    tensors = store.tensors(key(job), str(device))
    model = _make(job, device)
    weights = {name: tensors.pop(f"model.{name}") for name in model.state_dict()}
    model.load_state_dict(weights)
    return model, tensors


def _make(job: AssetJob | AttackJob, device: torch.device) -> Classifier:
    # Channels last is the faster layout for convolutions, on a CPU by a fifth (see measurements/).
    return job.model(job.dataset).to(device).to(memory_format=torch.channels_last)


def _make_asset(job: AssetJob, task: Task, store: Store, folder: Path) -> list[Row]:
    device = task.train.y.device
    _seed(job.seed)
    model = _make(job, device)
    if job.clean_model:
        model.load_state_dict(store.tensors(key(job.clean_model), str(device)))
    # Again: an asset that ignores the model must not depend on what drawing it consumed.
    _seed(job.seed)
    clock = Clock(device)
    with _training(clock, store, job):
        tensors = job.asset(model, task.train, job.recipe)
    write_tensors(folder / "tensors.safetensors", tensors)
    if not isinstance(job.asset, CleanModel):
        return [{"kind": "asset", "step": 0, **clock.reading()}]
    measured = score(model, task.test) | clock.reading()
    return [{"kind": "clean", "step": 0, "poison_ratio": 0.0, **measured}]


def _attack(job: AttackJob, task: Task, store: Store, folder: Path) -> list[Row]:
    attack, device = job.attack, task.train.y.device
    _seed(job.seed)
    rows = attack.draw(task.train.y, job.seed)
    model = _make(job, device)
    clock = Clock(device)
    asset = store.tensors(key(job.asset), str(device)) if job.asset else {}
    with _training(clock, store, job):
        trigger = attack(model, task.train, rows, job.recipe, asset)
    poisoned = poison_test(task.test, attack, trigger, model.num_classes)
    # Again: what the set is must not depend on how many random numbers the training drew.
    _seed(job.seed)
    train = attack.poisoned_set(task.train, rows, trigger, model.num_classes, job.recipe.batch_size)
    changed = (train.x != task.train.x).flatten(1).any(1) | (train.y != task.train.y)
    changed_rows = changed.nonzero()[:, 0]
    write_tensors(
        folder / "tensors.safetensors",
        {f"model.{name}": value for name, value in model.state_dict().items()}
        | {"test.x": poisoned.data.x, "test.y": poisoned.data.y, "test.wanted": poisoned.wanted}
        | {"test.part": poisoned.part, "train.rows": changed_rows}
        | {"train.x": train.x[changed_rows], "train.y": train.y[changed_rows]},
    )
    measured = {**score(model, task.test, poisoned), **clock.reading()}
    return [{"kind": "victim", "step": 0, "poison_ratio": len(rows) / len(task.train), **measured}]


def _defend(job: DefenseJob, task: Task, store: Store, device: torch.device) -> list[Row]:
    model, tensors = load_victim(job.victim, store, device)
    test = task.test.to(device)
    triggered = Images(tensors["test.x"], tensors["test.y"], test.flips)
    poisoned = Poisoned(triggered, tensors["test.wanted"], tensors["test.part"])
    _seed(job.victim.seed)
    share_poisoned = store.rows(key(job.victim))[0]["poison_ratio"]
    common: Row = {
        "kind": job.defense.yields,
        "uses": job.defense.uses,
        "select": job.defense.select,
    }
    if job.defense.uses == "clean":
        rows = draw_clean(len(task.train), job.clean_ratio, job.victim.seed)
        known = task.train[rows].to(device)
        common["own_acc_before"] = share(predict(model, known) == known.y)
        model.train()  # as it is handed to every defense
    else:
        known = _poisoned_training_set(task.train.to(device), tensors)
    clock = Clock(device)

    def measure(step: int, value: float | None, model: torch.nn.Module) -> Row:
        row = {"step": step, "value": value, "poison_ratio": share_poisoned, **common}
        if job.defense.uses == "clean":
            row["own_acc"] = share(predict(model, known) == known.y)
        return row | score(model, test, poisoned) | clock.reading()

    scored: list[Row] = []
    every = job.score_every if job.defense.yields == "rounds" else 1
    pending = None
    try:
        for step, result in enumerate(clock.timed(job.defense(model, known)), start=1):
            value, defended = result if isinstance(result, tuple) else (None, result)
            pending = (step, value, defended)
            if step % every == 0:
                scored.append(measure(*pending))
                pending = None
    except NotApplicable as reason:
        logging.getLogger(__name__).warning("%s", reason)
        return [common | {"step": 0, "status": "not applicable", **clock.reading()}]
    if pending is not None:
        scored.append(measure(*pending))
    if not scored:
        raise RuntimeError(f"{job.defense.label} yielded no model")
    return scored


def _poisoned_training_set(train: Images, tensors: dict[str, Tensor]) -> Images:
    x, y = train.x.clone(), train.y.clone()
    x[tensors["train.rows"]], y[tensors["train.rows"]] = tensors["train.x"], tensors["train.y"]
    return Images(x, y, train.flips)


@lru_cache(maxsize=1)
def _task(dataset: Dataset, data: Path) -> Task:
    return dataset(data)


def _seed(seed: int) -> None:
    """Seed every generator a method may use, and ask for repeatable kernels in full precision."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # torch's default rounds convolutions on GPUs; a recipe that wants that says so.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def _training(clock: Clock, store: Store, job: Job) -> Iterator[None]:
    """Inside the block the clock runs, and trainings are saved and resumed."""
    with checkpoints(store.checkpoint(key(job)), CHECKPOINT_EVERY, (clock,)), clock.running():
        yield


@contextmanager
def _journal(file: Path) -> Iterator[list[str]]:
    """Log the block's epochs and messages to the file; collects warnings for the rows' note."""
    notes: list[str] = []
    with file.open("w", buffering=1) as stream:
        handler = _Journal(stream, notes)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield notes
        finally:
            root.setLevel(level)
            root.removeHandler(handler)


class _Journal(logging.Handler):
    def __init__(self, stream: TextIO, notes: list[str]) -> None:
        super().__init__(logging.INFO)
        self.stream, self.notes, self.start = stream, notes, time.time()

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.split(".")[0]
        if not (source in ("benchmark", "attacks", "defenses") or source.startswith("plugin_")):
            return
        line = {"seconds": round(time.time() - self.start, 2), "message": record.getMessage()}
        for field in ("epoch", "epochs", "loss"):
            if hasattr(record, field):
                line[field] = getattr(record, field)
        self.stream.write(json.dumps(line) + "\n")
        if record.levelno >= NOTE:
            self.notes.append(record.getMessage())
