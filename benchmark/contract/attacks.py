"""What every attack promises."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch
from torch import nn

from attacks.base import Attack, Training, Trigger
from benchmark.checkpoint import checkpoints
from benchmark.contract.rules import World, make_world, require, same_weights
from benchmark.train import Recipe


def _start_attack(attack: Attack, recipe: Recipe) -> tuple[Training, World]:
    world = make_world()
    rows = attack.draw(world.train.y, seed=0)
    return attack(world.model, world.train, rows, recipe), world


def _run_attack(attack: Attack, recipe: Recipe) -> tuple[Trigger, World]:
    training, world = _start_attack(attack, recipe)
    before = world.train.x.clone(), world.train.y.clone()
    models = 0
    while True:
        try:
            require(isinstance(next(training), nn.Module), "an attack yields the model")
        except StopIteration as stop:
            trigger = stop.value
            break
        models += 1
    require(models > 0, "an attack yields the model", "after each epoch")
    require(callable(trigger), "an attack returns its trigger", repr(trigger))
    same = torch.equal(before[0], world.train.x) and torch.equal(before[1], world.train.y)
    require(same, "an attack leaves its data untouched")
    return cast(Trigger, trigger), world


def _resume_attack(attack: Attack, recipe: Recipe) -> tuple[Trigger, World]:
    """As `_run_attack`, but interrupted in its second epoch and started again."""

    class Interrupted(Exception):
        pass

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.pt"
        training, _ = _start_attack(attack, recipe)
        with suppress(Interrupted), checkpoints(file, every=0):
            next(training)
            next(training, None)
            raise Interrupted
        training, world = _start_attack(attack, recipe)
        with checkpoints(file, every=0):
            while True:
                try:
                    next(training)
                except StopIteration as stop:
                    return cast(Trigger, stop.value), world


@torch.no_grad()
def check_attack(attack: Attack) -> None:
    y = torch.arange(10)
    wanted = attack.relabel(y, 10)
    require(wanted.shape == y.shape and bool((wanted < 10).all()), "labels are classes")
    recipe = Recipe(epochs=2, batch_size=32)
    with torch.enable_grad():
        trigger, world = _run_attack(attack, recipe)
        again, twin = _run_attack(attack, recipe)
        later, resumed = _resume_attack(attack, recipe)
    x = world.test.floats()
    kept = x.clone()
    triggered = trigger(x)
    require(torch.equal(x, kept), "a trigger leaves its input untouched")
    require(triggered.shape == x.shape and triggered.dtype == x.dtype, "a trigger keeps the shape")
    inside = bool((triggered >= -1e-6).all() and (triggered <= 1 + 1e-6).all())
    require(inside, "a trigger stays in [0, 1]", f"[{triggered.min():.3f}, {triggered.max():.3f}]")
    require(torch.equal(triggered, trigger(x)), "a trigger is deterministic")
    require(bool((triggered != x).flatten(1).any(1).any()), "a trigger changes images")
    alone = torch.cat([trigger(part) for part in x.split(1)])
    gap = (triggered - alone).abs()
    # A trigger that rounds to 8 bits may round the last bits of a sum either way, in a few pixels.
    close = gap.max() < 1.01 / 255 and gap.mean() < 1e-4
    require(bool(close), "a trigger treats each image on its own")
    repeated = same_weights(world.model, twin.model) and torch.equal(triggered, again(x))
    require(repeated, "an attack is repeatable")
    same = same_weights(world.model, resumed.model) and torch.equal(triggered, later(x))
    require(same, "an interrupted attack goes on where it was saved")
