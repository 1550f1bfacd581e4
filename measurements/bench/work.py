"""Training, scoring, and stamping of triggers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from measurements.bench.setting import Item, Record, Setting, record
from measurements.bench.turns import take_turns
from measurements.plain import scoring, stamping, training
from measurements.plain.network import plain_network
from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import Attack, Trigger, poison
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.lf import LF
from sau_bench.attacks.sig import SIG
from sau_bench.attacks.wanet import WaNet, Warp
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.jobs.networks import make_model
from sau_bench.benchmark.metrics import Poisoned, score
from sau_bench.benchmark.train import Precision, Recipe, fit

ENDLESS = 100_000
"""Epochs or rounds, of which the first few are timed."""
BATCH = 128


def plain_batches(
    data: Images, batch_size: int, *, augment: bool, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """The plain loader; on a GPU with worker processes, as one would set it up there."""
    workers = min(8, torch.get_num_threads()) if device.type == "cuda" else 0
    return training.plain_loader(
        data.x, data.y, batch_size,
        augment=augment, flips=data.flips, device=device, workers=workers,
    )  # fmt: skip


def epochs(
    loader: DataLoader[tuple[Tensor, int]],
    device: torch.device,
    step: Callable[[Tensor, Tensor], object],
) -> Iterator[None]:
    """Endless epochs of a plain step over the loader."""
    while True:
        for images, labels in loader:
            step(images.to(device), labels.to(device))
        yield


def measure_training(kind: Precision, setting: Setting, seconds: float) -> Record:
    """An epoch of `fit`, batch 128, augmented; beside it one of the plain loop in fp32."""
    cuda = setting.device.type == "cuda"
    count = 200 * BATCH if cuda else max(BATCH, setting.fitting(seconds, 9, 8 * BATCH, kind))
    plain_count = 100 * BATCH if cuda else min(count, 2 * BATCH)
    data = setting.images(count)
    model = make_model(setting.job, setting.device)
    network = plain_network(model)
    recipe = Recipe(epochs=ENDLESS, batch_size=BATCH, precision=kind, schedule="constant")
    loader = plain_batches(
        data[torch.arange(plain_count)], BATCH, augment=True, device=setting.device
    )
    optimizer = training.plain_optimizer(network)
    turns = take_turns(
        fit(model, data, recipe),
        epochs(loader, setting.device, partial(training.plain_step, network, optimizer=optimizer)),
        seconds,
        setting.device,
        setting.deterministic,
    )
    return record(
        "training", f"training {kind}", turns,
        images=count, plain_images=plain_count, forward=setting.forward_flops,
        against=kind, passes=3.0, plain_passes=3.0,
    )  # fmt: skip


def measure_scoring(setting: Setting, seconds: float) -> Record:
    """`score` of clean and of as many triggered images; one image counts once."""
    cuda = setting.device.type == "cuda"
    count = 20_000 if cuda else setting.fitting(seconds, 2, 2048, "fp32")
    data = setting.images(count)
    model = setting.victim()
    network = plain_network(model)
    half = count // 2
    clean, rest = data[torch.arange(half)], data[torch.arange(half, count)]
    zeros = torch.zeros_like(rest.y)
    poisoned = Poisoned(rest, zeros, zeros)
    loader = plain_batches(data, BATCH, augment=False, device=setting.device)
    turns = take_turns(
        (score(model, clean, poisoned) for _ in itertools.count()),
        epochs(loader, setting.device, partial(scoring.plain_step, network)),
        seconds,
        setting.device,
        setting.deterministic,
    )
    return record(
        "scoring", "scoring fp32", turns,
        images=count, plain_images=count, forward=setting.forward_flops,
        against="fp32", passes=1.0, plain_passes=1.0,
    )  # fmt: skip


def measure_stamping(name: str, setting: Setting, seconds: float) -> Record:
    """`poison` of all images of a training set: 8-bit conversion and relabelling included."""
    count = setting.dataset.train_size
    plain_count = min(count, 2000)
    data = setting.images(count)
    rows = torch.arange(count, device=setting.device)
    channels, height, width = setting.dataset.shape
    added = 0.2 * torch.rand(1, channels, height, width, device=setting.device)
    attacks: dict[str, tuple[Attack, Trigger, stamping.Stamp | None]] = {
        "BadNets": (BadNets(), BadNets().trigger, stamping.patch),
        "Blended": (
            Blended(), Blended().trigger,
            partial(stamping.blend, picture=_picture(added)),
        ),
        "SIG": (SIG(), SIG().trigger, stamping.stripes),
        "LF": (
            LF(), LF().trigger({"pattern": added}),
            partial(stamping.pattern, added=_picture(added)),
        ),
        "WaNet": (WaNet(), Warp(WaNet().grid(width).to(setting.device)), None),
    }  # fmt: skip
    attack, trigger, stamp = attacks[name]
    pixels = data.x[:plain_count].permute(0, 2, 3, 1).cpu().numpy()

    def product() -> object:
        return poison(data, rows, attack, trigger, setting.dataset.num_classes)

    turns = take_turns(
        (product() for _ in itertools.count()),
        (stamping.plain_poison(pixels, stamp) for _ in itertools.count()) if stamp else None,
        seconds,
        setting.device,
        setting.deterministic,
    )
    line = record(
        "stamping", f"stamping {name}", turns,
        images=count, plain_images=plain_count, forward=1.0, against="copy",
    )  # fmt: skip
    # An image is read once and written once, 8 bits a value.
    rate = 2 * channels * height * width * line.product / 1e9
    return replace(line, passes=None, rate=rate, rate_unit="GB/s")


def _picture(x: Tensor) -> np.ndarray[Any, Any]:
    """(1, C, H, W) in [0, 1] as float (H, W, C) of 0 to 255."""
    return x[0].permute(1, 2, 0).cpu().numpy() * 255


def training_items(kinds: tuple[Precision, ...]) -> list[Item]:
    return [Item("training", f"training {k}", 12, partial(measure_training, k)) for k in kinds]


SCORING = Item("scoring", "scoring fp32", 6, measure_scoring)
STAMPING = [
    Item("stamping", f"stamping {name}", 2, partial(measure_stamping, name))
    for name in ("BadNets", "Blended", "SIG", "LF", "WaNet")
]
