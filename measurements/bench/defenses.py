"""A round of each built-in defense, and of its plain counterpart where there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import nn

from measurements.bench.setting import BATCHES, Item, Record, Setting, record
from measurements.bench.turns import take_turns
from measurements.bench.work import ENDLESS, epochs, plain_batches
from measurements.plain import anp, at, i_bau, nc, sau, training
from measurements.plain.network import plain_network
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.loading import build, load, plugin_names
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier

BATCH = 256
ONE_EPOCH = {"epochs": 1}


def round_fields(name: str, images: int) -> dict[str, Any]:
    """Fields with which a defense yields after one round over the images.

    Defenses that yield after each epoch of their recipe need none.
    """
    values: dict[str, dict[str, Any]] = {
        # Nothing is flagged: the search alone, of all classes.
        "nc": {"epochs": 1, "anomaly": 1e9},
        "anp": {"iterations": max(1, images // BATCH), "batch_size": min(BATCH, images)}
        | {"thresholds": [0.4]},
        "ep": {"samples": images},
        "i_bau": {"rounds": ENDLESS, "portion": portion(images)},
        "nad": {"teacher": ONE_EPOCH},
        "strip": {"overlays": 1, "samples": max(2, images)},
        "rnp": {"unlearning": ONE_EPOCH, "recovering": ONE_EPOCH, "thresholds": [0.7]},
    }
    return values.get(name, {})


def portion(images: int) -> float:
    """Share of a batch of i-BAU that carries the perturbation: its default, or one image."""
    return max(0.01, 1 / images)


def product_defense(name: str, images: int, kind: str) -> Defense:
    """The built-in defense with a precision, and as many rounds as one asks for."""
    cls = load("defenses", name)
    values: dict[str, Any] = round_fields(name, images)
    for field in fields(cls):
        if isinstance(field.default, Recipe):
            rounds = values.get(field.name, {"epochs": ENDLESS})
            values[field.name] = rounds | {"precision": kind}
        elif field.name == "precision":
            values["precision"] = kind
    defense = build("defenses", {name: values} if values else name)
    assert isinstance(defense, Defense)
    return defense


def product_rounds(defense: Defense, model: Classifier, data: Images) -> Iterator[object]:
    """Endless rounds; a method that ends starts again on a fresh copy of the model."""
    while True:
        run = defense(copy.deepcopy(model), data)
        if defense.yields == "candidates":
            yield next(iter(run))
        else:
            yield from run


class Plain:
    """The plain counterparts: endless rounds over images, in fp32 and NCHW."""

    def __init__(self, setting: Setting, model: nn.Module, data: Images) -> None:
        self.setting, self.model, self.data = setting, plain_network(model), data
        self.device = setting.device

    def batches(self, augment: bool) -> Any:
        return plain_batches(self.data, BATCH, augment=augment, device=self.device)

    def ft(self) -> Iterator[None]:
        step = partial(
            training.plain_step, self.model, optimizer=training.plain_optimizer(self.model)
        )
        return epochs(self.batches(True), self.device, step)

    def at(self) -> Iterator[None]:
        step = partial(at.plain_step, self.model, optimizer=at.plain_optimizer(self.model))
        return epochs(self.batches(False), self.device, step)

    def sau(self) -> Iterator[None]:
        step = partial(
            sau.plain_step, self.model,
            backdoored=copy.deepcopy(self.model), optimizer=sau.plain_optimizer(self.model),
        )  # fmt: skip
        return epochs(self.batches(False), self.device, step)

    def anp(self) -> Iterator[None]:
        masked = anp.plain_masked(self.model)
        step = partial(anp.plain_step, masked, optimizer=anp.plain_optimizer(masked))
        return epochs(self.batches(True), self.device, step)

    def nc(self) -> Iterator[None]:
        """An epoch of the search for each class, one class after another."""
        loader, shape = self.batches(True), self.setting.dataset.shape
        triggers = [
            nc.PlainTrigger(shape, self.device) for _ in range(self.setting.dataset.num_classes)
        ]
        optimizers = [nc.plain_optimizer(trigger) for trigger in triggers]
        searches = [
            epochs(
                loader, self.device,
                partial(nc.plain_step, self.model, target=t, trigger=triggers[t],
                        optimizer=optimizers[t]),
            )
            for t in range(len(triggers))
        ]  # fmt: skip
        while True:
            for search in searches:
                next(search)
            yield

    def i_bau(self) -> Iterator[None]:
        """A pass of the ascent, then one along the hypergradient."""
        optimizer, loader = i_bau.plain_optimizer(self.model), self.batches(True)
        cached = [(x.to(self.device), y.to(self.device)) for x, y in loader]
        while True:
            d = torch.zeros_like(cached[0][0][:1])
            for x, _ in loader:
                d = i_bau.plain_ascent(self.model, x.to(self.device), d)
            for x, y in cached:
                i_bau.plain_step(
                    self.model, x, y, d, *cached[0], optimizer, portion=portion(len(x))
                )
            yield


PASSES: dict[str, Callable[[int], float]] = {
    "ft": lambda classes: 3.0,
    "anp": lambda classes: 9.0,
    "at": lambda classes: 18.0,
    "nc": lambda classes: 2.0 * classes,
    # Ascent 4, the two losses with their gradients 5, and what the K + 1 products were counted as.
    "i_bau": lambda classes: 4 + 5 + 19.6,
    "sau": lambda classes: 48.0,
}
"""Forward passes an image of a plain round, from the number of classes."""


def measure_defense(name: str, kind: str, setting: Setting, seconds: float) -> Record:
    """Rounds of the product's defense on some images, and of the plain one on as many or fewer."""
    passes = PASSES[name](setting.dataset.num_classes) if name in PASSES else None
    most = BATCHES[setting.device.type] * BATCH
    count = (
        most if setting.device.type == "cuda" else setting.fitting(seconds, passes or 8, most, kind)
    )
    data, model = setting.images(count), setting.victim()
    defense = product_defense(name, count, kind)
    plain = getattr(Plain(setting, model, data), name)() if passes else None
    rounds = product_rounds(defense, model, data)
    turns = take_turns(rounds, plain, seconds, setting.device, setting.deterministic)
    return record(
        "defenses", f"{defense.name} {kind}", turns,
        images=count, plain_images=count, forward=setting.forward_flops,
        against=kind, plain_passes=passes,
    )  # fmt: skip


def measured_names() -> list[str]:
    """The built-in defenses but those without data, which process no images in a second."""
    names = plugin_names("defenses")
    return [name for name in names if getattr(load("defenses", name), "uses", "") != "none"]


def defense_items() -> list[Item]:
    """All built-in defenses that take images, in bf16 if they have a precision; weights are plain
    costs."""
    items = []
    for name in measured_names():
        weight = max(4.0, PASSES[name](10)) if name in PASSES else 4.0
        cls = load("defenses", name)
        declared = [
            f for f in fields(cls) if f.name == "precision" or isinstance(f.default, Recipe)
        ]
        kind = "bf16" if declared else "fp32"
        item = partial(measure_defense, name, kind)
        items.append(Item("defenses", f"{cls.name} {kind}", weight, item))
    return sorted(items, key=lambda item: -item.weight)
