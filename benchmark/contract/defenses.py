"""What every defense promises."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from sau_bench.benchmark.contract.rules import BrokenRule, World, make_world, require
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
    for result in defense(world.model, data):
        if defense.yields == "candidates":
            pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], float)
            require(pair, "candidates are pairs of a setting and a model", repr(type(result)))
            result = cast(tuple[float, nn.Module], result)[1]
        require(isinstance(result, nn.Module), "rounds are models", repr(type(result)))
        model = copy.deepcopy(cast(nn.Module, result)).eval()
        with torch.no_grad():
            outputs.append(model(world.test.floats()))
    same = torch.equal(before[0], world.train.x) and torch.equal(before[1], world.train.y)
    require(same, "a defense leaves its data untouched")
    return outputs, world


def check_defense(defense: Defense) -> None:
    for word, accepted in DECLARED.items():
        value = getattr(defense, word)
        detail = f"{word} is {value!r}, accepted: {', '.join(map(str, accepted))}"
        require(value in accepted, "a defense declares its kind", detail)
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        outputs, world = _run_defense(defense)
        again, _ = _run_defense(defense)
    except NotApplicable as reason:
        raise BrokenRule("a defense applies to a network with batch norm", str(reason)) from reason
    finally:
        # Whatever the defense left behind must not reach what this process checks next.
        state = torch.get_num_threads(), torch.is_grad_enabled()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
    require(state == (threads, grad), "a defense leaves global state alone")
    require(bool(outputs), "a defense yields at least one model")
    for logits in outputs:
        shape = logits.shape == (len(world.test), 10 + defense.rejects)
        require(shape, "a defended model is a classifier", str(tuple(logits.shape)))
        require(bool(logits.isfinite().all()), "a defended model gives finite logits")
    equal = len(outputs) == len(again) and all(map(torch.equal, outputs, again))
    require(equal, "a defense is repeatable")
