"""The data that plugins are checked on: a few digits and a small classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.loading import build
from sau_bench.models.classifier import Architecture, Classifier


@dataclass(frozen=True)
class World:
    """A few digits and a small classifier, the same at every call."""

    train: Images
    test: Images
    model: Classifier


def make_world() -> World:
    """Also seeds torch's generator."""
    torch.manual_seed(0)
    digits = make_digits()
    task = digits(Path())
    architecture = cast(Architecture, build("models", "small_cnn:8"))
    train, test = task.train[torch.arange(96)], task.test[torch.arange(16)]
    return World(train, test, architecture(digits))


def make_digits() -> Dataset:
    return cast(Dataset, build("datasets", "digits"))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
