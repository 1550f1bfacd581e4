"""What is measured on what: device, network, images; and one line of the result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from measurements.bench.turns import Turns
from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.jobs.flops import training_flops
from sau_bench.benchmark.jobs.job import AttackJob
from sau_bench.benchmark.jobs.networks import make_model
from sau_bench.benchmark.jobs.surroundings import set_arithmetic
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.models.classifier import Architecture, Classifier

BATCHES = {"cpu": 1, "cuda": 10}
"""Batches of 256 images in a round of a defense, at most."""
LEARNING = Recipe(epochs=1, batch_size=64, lr=0.05, augment=False, precision="bf16")


@dataclass(frozen=True)
class Setting:
    """The device, the network and images of the dataset's shape.

    ceilings: by name, in GFLOP/s, "copy" in GB/s; measured before anything else. deterministic:
    whether kernels have to repeat their bits, as in a job.
    """

    device: torch.device
    dataset: Dataset
    architecture: Architecture
    ceilings: dict[str, float] = field(default_factory=dict)
    deterministic: bool = True

    @cached_property
    def job(self) -> AttackJob:
        return AttackJob(
            dataset=self.dataset,
            architecture=self.architecture,
            attack=BadNets(),
            recipe=Recipe(),
            seed=0,
        )

    @cached_property
    def forward_flops(self) -> float:
        """Floating-point operations of one image's forward pass."""
        return training_flops(self.job) / 3 / self.dataset.train_size

    def images(self, count: int) -> Images:
        """Noise over one coarse random picture for each class, so that a network can learn it."""
        channels, height, width = self.dataset.shape
        draw = torch.Generator().manual_seed(0)
        coarse = torch.rand(self.dataset.num_classes, channels, 4, 4, generator=draw)
        pictures = torch.nn.functional.interpolate(coarse, size=(height, width)).mul(128)
        y = torch.randint(self.dataset.num_classes, (count,), generator=draw)
        x = torch.randint(128, (count, channels, height, width), generator=draw, dtype=torch.uint8)
        for part in torch.arange(count).split(4096):
            x[part] += pictures.to(torch.uint8)[y[part]]
        return Images(x, y, self.dataset.flips).to(self.device)

    @cached_property
    def _victim(self) -> Classifier:
        torch.manual_seed(0)
        set_arithmetic(self.deterministic)
        model = make_model(self.job, self.device)
        train_model(model, self.images(256), LEARNING)
        return model

    def victim(self) -> Classifier:
        """A copy of a network that has learnt for a few steps, as defenses get it."""
        return copy.deepcopy(self._victim).train()

    def fitting(self, seconds: float, passes: float, most: int, kind: str) -> int:
        """How many images fit into the seconds: a power of two, at least 16 and at most `most`.

        passes: of a plain round; one of those fits, and two of the product, which is taken to need
        half the passes. The plain side is taken to reach 60 % of its ceiling, the product 40 %.
        """
        if not self.ceilings:
            return 16
        plain, product = 0.6e9 * self.ceilings["fp32"], 0.4e9 * self.ceilings[kind]
        one = self.forward_flops * passes * (1 / plain + 1 / product)
        count = most
        while count > 16 and count * one > seconds:
            count = 2 ** ((count - 1).bit_length() - 1)
        return count


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the result.

    product, plain: in `unit`, medians. ratio: how many times as fast the product is. slowest,
    fastest: of the product, as shares of its median time. repeats: rounds that count. images: in a
    round of the product, plain_images: of the other. passes, plain_passes: forward passes an image
    that a round costs, by the arithmetic of the product as executed, and by definition of the plain
    pipeline. rate: in `rate_unit`, of the product. against: the ceiling that it is compared with.
    peak_mib: memory.
    """

    group: str
    name: str
    unit: str
    product: float
    plain: float | None = None
    ratio: float | None = None
    slowest: float | None = None
    fastest: float | None = None
    repeats: int = 1
    images: int | None = None
    plain_images: int | None = None
    passes: float | None = None
    plain_passes: float | None = None
    rate: float | None = None
    rate_unit: str = ""
    against: str = ""
    peak_mib: float | None = None
    plain_peak_mib: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Numbers to four digits: more are noise."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def record(
    group: str,
    name: str,
    turns: Turns,
    *,
    images: int,
    plain_images: int,
    forward: float,
    against: str,
    passes: float | None = None,
    plain_passes: float | None = None,
) -> Record:
    """Images per second of both sides, and arithmetic per second.

    forward: operations of a forward pass of an image. passes: of a round of the product; by default
    as counted.
    """
    seconds = turns.product.median
    if passes is None and turns.flops:
        passes = turns.flops / images / forward
    rate = passes * images * forward / seconds / 1e9 if passes else None
    plain = plain_images / turns.plain.median if turns.plain else None
    return Record(
        group=group,
        name=name,
        unit="images/s",
        product=images / seconds,
        plain=plain,
        ratio=images / seconds / plain if plain else None,
        slowest=max(turns.product.kept) / seconds,
        fastest=min(turns.product.kept) / seconds,
        repeats=len(turns.product.kept),
        images=images,
        plain_images=plain_images if plain else None,
        passes=passes,
        plain_passes=plain_passes if plain else None,
        rate=rate,
        rate_unit="GFLOP/s",
        against=against,
        peak_mib=turns.product.peak_mib,
        plain_peak_mib=turns.plain.peak_mib if turns.plain else None,
    )


@dataclass(frozen=True)
class Item:
    """Something to measure. weight: its share of the time, relative to the others."""

    group: str
    name: str
    weight: float
    measure: Callable[[Setting, float], Record]
