"""What the checks of all kinds share: how a rule is broken, and what plugins run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmark.data import Images
from benchmark.datasets.digits import Digits
from models.classifier import Classifier
from models.small_cnn import SmallCNN


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
    digits = Digits()
    task = digits(Path())
    train = task.train[torch.arange(len(task.train)) < 96]
    return World(train, task.test[torch.arange(len(task.test)) < 16], SmallCNN(width=8)(digits))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
