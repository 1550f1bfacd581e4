"""What every attack promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sau_bench.attacks.base import (
    Attack,
    NoPoisonedSet,
    Trigger,
    make_asset,
    stamped,
    triggers_of,
    wanted_of,
)
from sau_bench.benchmark.checkpoint import checkpoints
from sau_bench.benchmark.contract.world import World, make_digits, make_world, same_weights
from sau_bench.benchmark.rules import (
    SEED,
    UNTOUCHED,
    check_parameters,
    check_poisoned_set,
    check_trigger,
    require,
    seed_changed,
)
from sau_bench.benchmark.train import Recipe

T = TypeVar("T")
RECIPE = Recipe(epochs=2, batch_size=32)


def _asset(attack: Attack) -> dict[str, Tensor]:
    world = make_world()
    return make_asset(attack, world.model, world.train, RECIPE)


def _attack(attack: Attack, asset: Mapping[str, Tensor]) -> tuple[Trigger, World]:
    world = make_world()
    x, y = world.train.x.clone(), world.train.y.clone()
    rows = attack.draw(world.train.y, seed=0)
    trigger = attack(world.model, world.train, rows, RECIPE, asset)
    check_trigger(trigger, len(attack.parts), triggers_of(trigger))
    require(not seed_changed(0), SEED, "it calls torch.manual_seed")
    same = torch.equal(x, world.train.x) and torch.equal(y, world.train.y)
    require(same, UNTOUCHED, "it changed `train.x` or `train.y`; work on a copy, `train.x.clone()`")
    return trigger, world


def _interrupted(run: Callable[[], T]) -> tuple[T, bool]:
    """What `run` returns if it is interrupted after its first epoch and started again.

    Also whether there was a checkpoint to interrupt it at.
    """

    class Interrupted(Exception):
        pass

    def interrupt() -> None:
        raise Interrupted

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.pt"
        with suppress(Interrupted), checkpoints(file, every=0, after_save=interrupt):
            run()
        saved = file.exists()
        with checkpoints(file, every=0):
            return run(), saved


@torch.no_grad()
def check_attack(attack: Attack) -> None:
    wanted_of(attack, torch.arange(10), 10)
    check_parameters(attack)
    if attack.from_files:
        _check_files(attack)
        return
    with torch.enable_grad():
        asset = _asset(attack)
        remade, _ = _interrupted(lambda: _asset(attack))
        trigger, world = _attack(attack, asset)
        again, twin = _attack(attack, asset)
        (later, resumed), saved = _interrupted(lambda: _attack(attack, asset))
    equal = asset.keys() == remade.keys() and all(torch.equal(asset[n], remade[n]) for n in asset)
    require(equal, "an asset is repeatable, interrupted or not")
    x = world.test.floats()
    copy = x.clone()
    triggered = stamped(trigger, x)
    detail = "it changed `x`; work on a copy, `x.clone()`"
    require(torch.equal(x, copy), "a trigger leaves its input untouched", detail)
    require(torch.equal(triggered, trigger(x)), "a trigger is deterministic")
    require(bool((triggered != x).flatten(1).any(1).any()), "a trigger changes images")
    alone = torch.cat([trigger(part) for part in x.split(1)])
    gap = (triggered - alone).abs()
    # A trigger that rounds to 8 bits may round the last bits of a sum either way, in a few pixels.
    close = gap.max() < 1.01 / 255 and gap.mean() < 1e-4
    require(bool(close), "a trigger does not depend on the other images of a batch")
    repeated = same_weights(world.model, twin.model) and torch.equal(triggered, again(x))
    require(repeated, "an attack is repeatable")
    require(saved, "an attack saves checkpoints", "train with benchmark.train")
    same = same_weights(world.model, resumed.model) and torch.equal(triggered, later(x))
    require(same, "an interrupted attack is resumed from its checkpoint")
    _check_preview(attack, asset, trigger, x)
    _check_poisoned_set(attack, trigger, world)


def _check_preview(
    attack: Attack, asset: Mapping[str, Tensor], trigger: Trigger, x: Tensor
) -> None:
    world = make_world()
    attack.draw(world.train.y, seed=0)
    if preview := attack.preview(x.shape[-1], asset):
        shown = [part(x) for part in triggers_of(preview)]
        same = all(map(torch.equal, shown, [part(x) for part in triggers_of(trigger)]))
        require(same, "a preview shows what the trained trigger does")


def _check_files(attack: Attack) -> None:
    """An attack from files: where there are none, it says so, else they are images of the data."""
    try:
        attack.check(make_digits(), RECIPE)
    except ValueError as error:
        named = "accepted: " in str(error)
        require(named, "an attack whose files are missing says what is accepted", str(error))
        return
    with torch.enable_grad():
        trigger, world = _attack(attack, {})
    y, found = world.test.y, [attack.poisoned_test(world.test, trigger, 10) for _ in range(2)]
    rows = (attack.relabel(y, 10) != y).nonzero()[:, 0]
    complete = (
        found[0].data.x.shape == world.test.x[rows].shape
        and found[0].data.x.dtype == torch.uint8
        and torch.equal(found[0].data.y, y[rows])
        and torch.equal(found[0].wanted, attack.relabel(y, 10)[rows])
    )
    require(complete, "triggered test images are those of the other classes, in order")
    repeated = torch.equal(found[0].data.x, found[1].data.x)
    require(repeated, "triggered test images are repeatable")
    _check_poisoned_set(attack, trigger, world)


def _check_poisoned_set(attack: Attack, trigger: Trigger, world: World) -> None:
    x, y = world.train.x.clone(), world.train.y.clone()
    rows = attack.draw(world.train.y, seed=0)
    sets = []
    for _ in range(2):
        torch.manual_seed(0)
        try:
            sets.append(attack.poisoned_set(world.train, rows, trigger, 10, RECIPE.batch_size))
        except NoPoisonedSet:
            return
    first, second = sets
    check_poisoned_set(first, world.train)
    untouched = torch.equal(x, world.train.x) and torch.equal(y, world.train.y)
    require(untouched, "a poisoned training set is a copy")
    repeated = torch.equal(first.x, second.x) and torch.equal(first.y, second.y)
    require(repeated, "a poisoned training set is repeatable")
