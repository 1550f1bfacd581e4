"""Run one job. The only place that holds test data and scores a model."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sau_bench.attacks.asset import CleanModel
from sau_bench.attacks.base import NoPoisonedSet
from sau_bench.benchmark import risk
from sau_bench.benchmark.checkpoint import checkpoints
from sau_bench.benchmark.cost import Clock, arithmetic, hardware
from sau_bench.benchmark.data import Dataset, Images, Task, draw_clean, replaced
from sau_bench.benchmark.errors import InputError, listed
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.jobs.journal import journal
from sau_bench.benchmark.jobs.leaks import Guard, fingerprint
from sau_bench.benchmark.jobs.weights import Kept, restore, steps_of
from sau_bench.benchmark.metrics import Poisoned, predict, score, share
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.process import spoil
from sau_bench.benchmark.rows import REJECTED_COLUMNS, Row
from sau_bench.benchmark.rules import SEED, UNTOUCHED, check_steps, require, seed_changed, yielded
from sau_bench.defenses.base import NotApplicable
from sau_bench.models.classifier import Classifier

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


Probe = Callable[[torch.nn.Module], Row]
"""Measures a defended model beside its scores; it draws no random number."""


def run_job(
    job: Job,
    store: Store,
    data: Path,
    device: torch.device | None = None,
    deterministic: bool = True,
) -> None:
    """Run the job and publish its folder; a job that is published already is left alone.

    Args:
        data: folder of the datasets.
        device: by default the one GPU that this process sees, or else the CPU.
        deterministic: whether a GPU has to use kernels that give the same bits each time; on a CPU
            all do.

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
    deterministic = deterministic or device.type == "cpu"
    with store.draft(job.key) as draft:
        draft.write_json("job.json", job.identity)
        draft.write_json("texts.json", job.texts)
        with journal(draft.folder / "log.jsonl", job.plugins.values()) as texts:
            match job:
                case AssetJob():
                    with _Run(job.dataset, data, device, deterministic) as run:
                        rows = _make_asset(job, run, store, draft)
                case AttackJob():
                    with _Run(job.dataset, data, device, deterministic) as run:
                        rows = _attack(job, run, store, draft)
                case DefenseJob():
                    with _Run(job.victim.dataset, data, device, deterministic) as run:
                        rows = _defend(job, run, store, draft)
                case _:
                    raise TypeError(f"{type(job).__name__} is no kind of job")
        common = {**texts(), **hardware(device), **arithmetic(_trained_by(job), deterministic)}
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


def _trained_by(job: Job) -> dict[str, Any]:
    """The fields that say how the job trains, by role."""
    match job:
        case DefenseJob():
            return {"defense": asdict(job.defense)}
        case AttackJob():
            return {"attack": asdict(job.attack), "recipe": asdict(job.recipe)}
        case AssetJob() if job.asset.model_state != "fresh":
            return {"asset": asdict(job.asset)}
        case AssetJob():
            return {"asset": asdict(job.asset), "recipe": asdict(job.recipe)}
    return {}


def load_defended(
    job: DefenseJob, store: Store, device: torch.device, step: int | None = None
) -> Classifier:
    """The model that a finished job with `keep` has kept.

    step: of the round or candidate; by default the only one that was kept.

    Raises:
        InputError: the job has kept no such step.
    """
    model, _ = load_victim(job.victim, store, device)
    tensors = store.tensors(job.key, str(device)) if job.keep else {}
    steps = steps_of(tensors)
    if step is None and len(steps) == 1:
        (step,) = steps
    if step not in steps:
        accepted = listed(map(str, steps)) or "none, run it with `keep: [defended]` in the config"
        raise InputError(f"{job}: step is {step}; kept: {accepted}")
    restore(model, tensors, step)
    return model


def make_model(job: AssetJob | AttackJob, device: torch.device) -> Classifier:
    """The freshly initialised network of a job."""
    # Channels last is the faster layout for convolutions, on a CPU by a fifth (see measurements/).
    return job.architecture(job.dataset).to(device).to(memory_format=torch.channels_last)


class _Run:
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
        self.task, self.fingerprint = _task(dataset, data)
        set_arithmetic(deterministic)
        self.guard.begin()

    def __enter__(self) -> _Run:
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
            _task.cache_clear()
            task, read = _task(self.dataset, self.data)
            if read != self.fingerprint:
                raise RuntimeError(f"{self.dataset.name} is another one when it is read again")
            self.task = task.to(self.task.train.y.device)
        return self.task


def _make_asset(job: AssetJob, run: _Run, store: Store, draft: Draft) -> list[Row]:
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


def _attack(job: AttackJob, run: _Run, store: Store, draft: Draft) -> list[Row]:
    attack, train, device = job.attack, run.to_device().train, run.device
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
        changed = _changed(task.train, stamped)
        tensors |= {"train.x": stamped.x[changed], "train.y": stamped.y[changed]}
        tensors["train.rows"] = changed
        if attack.from_files:  # which may repeat clean images
            ratio = len(changed) / len(train)
    draft.write_tensors("tensors.safetensors", tensors)
    scores = {**score(model, task.test, poisoned), **clock.reading()}
    _log_scores("victim", scores)
    return [{"kind": "victim", "step": 0, "poison_ratio": ratio, **scores}]


def _log_scores(what: str, row: Row) -> None:
    words = (f"{name.upper()} {100 * row[name]:.2f}" for name in ("acc", "asr", "racc"))
    log.info("%s: %s", what, ", ".join(words))


def _changed(before: Images, after: Images) -> Tensor:
    """Rows whose image or label differs, int64, ascending."""
    rows = torch.arange(len(before), device=before.y.device)
    differ = [(after.x[part] != before.x[part]).flatten(1).any(1) for part in rows.split(1000)]
    return rows[torch.cat(differ) | (after.y != before.y)]


def _defend(job: DefenseJob, run: _Run, store: Store, draft: Draft) -> list[Row]:
    defense, task, device = job.defense, run.task, run.device
    victim, tensors = load_victim(job.victim, store, device)
    test = task.test.to(device)
    triggered = Images(tensors["test.x"], tensors["test.y"], test.flips)
    poisoned = Poisoned(triggered, tensors["test.wanted"], tensors["test.part"])
    run.seed(job.victim.seed)
    poison_ratio = store.rows(job.victim.key)[0]["poison_ratio"]
    common: Row = {"kind": defense.yields, "poison_ratio": poison_ratio}
    if defense.uses == "clean":
        rows = draw_clean(len(task.train), job.clean_ratio, job.victim.seed)
        data = task.train[rows].to(device)
        common["own_acc_before"] = share(predict(victim, data) == data.y)
    elif defense.uses == "train":
        if "train.rows" not in tensors:
            note("the poisoned training set is not known")
            return [common | {"step": 0, "status": "not applicable"} | Clock(device).reading()]
        stamped = Images(tensors["train.x"], tensors["train.y"])
        poisoned_set = replaced(task.train.to(device), tensors["train.rows"], stamped)
        data = run.until_end.enter_context(poisoned_set)
    else:
        data = task.train[torch.arange(0)].to(device)
    probes = [_PROBES[name](job.victim, victim, test) for name in job.probes]
    kept = Kept(victim) if job.keep else None
    model = victim if defense.starts == "victim" else make_model(job.victim, device)
    model.train()  # as every defense gets it
    rejection = model.num_classes if defense.rejects else None
    clock = Clock(device)

    def measure(step: int, value: float | None, model: torch.nn.Module) -> Row:
        row = common | {"step": step, "value": value}
        with run.guard.aside():
            if defense.uses == "clean":
                # Drawn again: the method may have changed the images that it was handed.
                known = task.train[rows].to(device)
                row["own_acc"] = share(predict(model, known) == known.y)
            row |= score(model, test, poisoned, rejection)
            for probe in probes:
                row |= probe(model)
            if kept and defense.yields == "candidates":
                kept.add(step, model)
            _log_scores(f"step {step}" if value is None else f"step {step}, {value:g}", row)
            return row | clock.reading()

    scored: list[Row] = []
    pending = None
    try:
        steps = defense(model, data)
        check_steps(steps)
        for step, result in enumerate(clock.timed(steps), start=1):
            value, defended = yielded(defense.yields, result, steps)
            pending = (step, value, defended)
            if job.scores(step):
                scored.append(measure(*pending))
                pending = None
    except NotApplicable as reason:
        note("%s", reason)
        return [common | {"step": 0, "status": "not applicable"} | clock.reading()]
    if pending is not None:
        scored.append(measure(*pending))
    require(bool(scored), "a defense yields at least one model")
    if defense.rejects and defense.yields == "rounds":
        shares = (100 * scored[-1][name] for name in REJECTED_COLUMNS)
        note("rejected %.1f %% of clean and %.1f %% of triggered test images", *shares)
    if kept:
        if defense.yields == "rounds":
            kept.add(step, defended)
        draft.write_tensors("tensors.safetensors", kept.tensors)
    return scored


def _risk_probe(job: AttackJob, model: Classifier, test: Images) -> Probe:
    """Adversarial risks on the first test images that the trigger would move to another class."""
    backdoored = copy.deepcopy(model)
    moved = job.attack.parts[0].relabel(test.y, model.num_classes) != test.y
    data = test[moved.nonzero()[: risk.IMAGES, 0]]
    before = risk.risks(backdoored, backdoored, data)["adv_risk"]
    return lambda model: {**risk.risks(model, backdoored, data), "risk_before": before}


_PROBES: dict[str, Callable[[AttackJob, Classifier, Images], Probe]] = {"risk": _risk_probe}
"""What makes each probe of `benchmark.rows.PROBES` from the victim and the clean test images."""


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


def set_arithmetic(deterministic: bool = True) -> None:
    """Ask for full precision, and for repeatable kernels or for the fastest."""
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    # torch's default rounds convolutions on GPUs; a recipe that wants that says so.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
