"""What every defense promises."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from sau_bench.benchmark.contract.world import World, make_world
from sau_bench.benchmark.rules import (
    SEED,
    UNTOUCHED,
    BrokenRule,
    check_steps,
    require,
    seed_changed,
    yielded,
)
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.defenses.base import DECLARED, Defense, NotApplicable


def _run_defense(defense: Defense) -> tuple[list[Tensor], World]:
    world = make_world()
    if defense.starts == "victim":
        train_model(world.model, world.train, Recipe(epochs=2, batch_size=32, lr=0.05))
    data = world.train[torch.arange(0)] if defense.uses == "none" else world.train
    torch.manual_seed(0)
    before = world.train.x.clone(), world.train.y.clone()
    outputs = []
    steps = defense(world.model, data)
    check_steps(steps)
    for result in steps:
        _, model = yielded(defense.yields, result, steps)
        with torch.no_grad():
            outputs.append(copy.deepcopy(model).eval()(world.test.floats()))
    same = torch.equal(before[0], world.train.x) and torch.equal(before[1], world.train.y)
    require(not seed_changed(0), SEED, "it calls torch.manual_seed")
    require(same, UNTOUCHED, "it changed `data.x` or `data.y`; work on a copy, `data.x.clone()`")
    return outputs, world


def check_defense(defense: Defense) -> None:
    for word, accepted in DECLARED.items():
        value = getattr(defense, word)
        detail = f"{word} is {value!r}, accepted: {', '.join(map(str, accepted))}"
        require(value in accepted, "a defense declares its kind", detail)
    try:
        outputs, world = _run_defense(defense)
        again, _ = _run_defense(defense)
    except NotApplicable as reason:
        raise BrokenRule("a defense applies to a network with batch norm", str(reason)) from reason
    require(bool(outputs), "a defense yields at least one model")
    for logits in outputs:
        shape = logits.shape == (len(world.test), 10 + defense.rejects)
        require(shape, "a defended model is a classifier", str(tuple(logits.shape)))
        require(bool(logits.isfinite().all()), "a defended model gives finite logits")
    equal = len(outputs) == len(again) and all(map(torch.equal, outputs, again))
    require(equal, "a defense is repeatable")
