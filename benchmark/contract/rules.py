"""Shared by the checks of all kinds: how a rule is broken, and the data that plugins run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.loading import build
from sau_bench.models.classifier import Architecture, Classifier


class BrokenRule(AssertionError):
    """A plugin breaks its contract; `rule` names how."""

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule = rule


def require(holds: bool, rule: str, detail: str = "") -> None:
    if not holds:
        raise BrokenRule(rule, detail)


@dataclass(frozen=True)
class World:
    """A few digits and a small classifier, the same at every call."""

    train: Images
    test: Images
    model: Classifier


def make_world() -> World:
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
