"""Run a defense on a victim, and score what it yields."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch

from sau_bench.benchmark import risk
from sau_bench.benchmark.cost import Clock
from sau_bench.benchmark.data import Images, draw_clean, replaced
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.journal import log_scores
from sau_bench.benchmark.jobs.leaks import fingerprint
from sau_bench.benchmark.jobs.networks import load_victim, make_model
from sau_bench.benchmark.jobs.results import Draft, Store
from sau_bench.benchmark.jobs.surroundings import Surroundings
from sau_bench.benchmark.jobs.weights import Kept
from sau_bench.benchmark.metrics import Poisoned, predict, score, share
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.rows import REJECTED_COLUMNS, Row
from sau_bench.benchmark.rules import UNTOUCHED, check_steps, require, yielded
from sau_bench.defenses.base import NotApplicable
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)

Probe = Callable[[torch.nn.Module], Row]
"""Measures a defended model beside its scores; it draws no random number."""


def defend(job: DefenseJob, run: Surroundings, store: Store, draft: Draft) -> list[Row]:
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
    before = fingerprint(data)
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
            log_scores(f"step {step}" if value is None else f"step {step}, {value:g}", row)
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
    with run.guard.aside():
        untouched = fingerprint(data) == before
    if not untouched:
        log.warning("%s: it changed `data.x` or `data.y`; work on a copy", UNTOUCHED)
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
