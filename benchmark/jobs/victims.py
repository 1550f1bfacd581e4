"""Train victims, and make what their attacks need first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sau_bench.attacks.asset import CleanModel
from sau_bench.attacks.base import NoPoisonedSet
from sau_bench.benchmark.checkpoint import checkpoints
from sau_bench.benchmark.cost import Clock
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, Job
from sau_bench.benchmark.jobs.journal import log_scores
from sau_bench.benchmark.jobs.networks import make_model
from sau_bench.benchmark.jobs.results import Draft, Store
from sau_bench.benchmark.jobs.surroundings import Surroundings
from sau_bench.benchmark.metrics import score
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.rows import Row
from sau_bench.benchmark.rules import check_parameters, check_poisoned_set

CHECKPOINT_EVERY = 300.0
"""Seconds between two checkpoints of an attack's training; one takes a fraction of a second."""


def make_asset(job: AssetJob, run: Surroundings, store: Store, draft: Draft) -> list[Row]:
    task, device = run.to_device(), run.device
    run.seed(job.seed)
    model = make_model(job, device)
    if job.clean_model:
        model.load_state_dict(store.tensors(job.clean_model.key, str(device)))
    # Again: an asset that ignores the model must not depend on what drawing it consumed.
    run.seed(job.seed)
    clock = Clock(device)
    with _training(job, store, clock):
        tensors = job.asset(model, task.train, job.recipe)
    task = run.check()
    draft.write_tensors("tensors.safetensors", tensors)
    if not isinstance(job.asset, CleanModel):
        return [{"kind": "asset", "step": 0, **clock.reading()}]
    scores = score(model, task.test) | clock.reading()
    return [{"kind": "clean", "step": 0, "poison_ratio": 0.0, **scores}]


def train_victim(job: AttackJob, run: Surroundings, store: Store, draft: Draft) -> list[Row]:
    attack, train, device = job.attack, run.to_device().train, run.device
    check_parameters(attack)
    run.seed(job.seed)
    rows = attack.draw(train.y, job.seed)
    model = make_model(job, device)
    asset = store.tensors(job.asset.key, str(device)) if job.asset else {}
    clock = Clock(device)
    with _training(job, store, clock):
        trigger = attack(model, train, rows, job.recipe, asset)
    task = run.check()
    train = task.train
    poisoned = attack.poisoned_test(task.test, trigger, model.num_classes)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {"test.x": poisoned.data.x, "test.y": poisoned.data.y}
    tensors |= {"test.wanted": poisoned.wanted, "test.part": poisoned.part}
    # Again: what is drawn for the exported set must not depend on how the training was resumed.
    run.seed(job.seed)
    ratio: float | None = len(rows) / len(train)
    size = job.recipe.batch_size
    try:
        stamped = attack.poisoned_set(train, rows, trigger, model.num_classes, size)
    except NoPoisonedSet as reason:
        note("%s", reason)
        task, ratio = run.check(), None
    else:
        task = run.check()
        check_poisoned_set(stamped, task.train)
        changed = _changed(task.train, stamped)
        tensors |= {"train.x": stamped.x[changed], "train.y": stamped.y[changed]}
        tensors["train.rows"] = changed
        if attack.from_files:  # which may repeat clean images
            ratio = len(changed) / len(train)
    draft.write_tensors("tensors.safetensors", tensors)
    scores = {**score(model, task.test, poisoned), **clock.reading()}
    log_scores("victim", scores)
    return [{"kind": "victim", "step": 0, "poison_ratio": ratio, **scores}]


def _changed(before: Images, after: Images) -> Tensor:
    """Rows whose image or label differs, int64, ascending."""
    rows = torch.arange(len(before), device=before.y.device)
    differ = [(after.x[part] != before.x[part]).flatten(1).any(1) for part in rows.split(1000)]
    return rows[torch.cat(differ) | (after.y != before.y)]


@contextmanager
def _training(job: Job, store: Store, clock: Clock) -> Iterator[None]:
    """Inside the block the clock runs, and trainings are saved and resumed."""
    file = store.checkpoint(job.key)
    with checkpoints(file, CHECKPOINT_EVERY, (clock,), key=job.key), clock.running():
        yield
