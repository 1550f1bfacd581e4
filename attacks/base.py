"""What an attack is: it trains a model and returns a trigger."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from benchmark.data import Images, to_uint8
from benchmark.errors import check_range
from benchmark.plugin import Plugin
from benchmark.train import Recipe, fit
from models.classifier import Classifier

Trigger = Callable[[Tensor], Tensor]
"""float (B, C, H, W) in [0, 1] -> the same, triggered; the input is left untouched."""

Training = Generator[Classifier, None, Trigger]
"""Yields the model after each epoch and returns the trigger."""


@dataclass(frozen=True, kw_only=True)
class Attack(Plugin):
    """A backdoor attack.

    ratio: poisoned share of the whole training set, in (0, 1]. labels: "all2one" sends every class
    to `target`, "all2all" sends class y to (y + 1) mod K. target: the target class of all2one.
    """

    clean_label: ClassVar[bool] = False
    """Whether only images of the target class are poisoned, their labels left as they are."""

    ratio: float = 0.1
    labels: Literal["all2one", "all2all"] = "all2one"
    target: int = 0

    def __post_init__(self) -> None:
        check_range(self, "ratio", above=0, most=1)
        check_range(self, "target", least=0)
        if self.clean_label and self.labels != "all2one":
            raise ValueError(f"labels is {self.labels!r}, a clean-label attack accepts: 'all2one'")

    @property
    def label(self) -> str:
        return self.name if self.labels == "all2one" else f"{self.name} (all-to-all)"

    def relabel(self, y: Tensor, num_classes: int) -> Tensor:
        """The class that the attacker wants for images of class y; int64 (B,) both."""
        if self.labels == "all2all":
            return (y + 1) % num_classes
        return torch.full_like(y, self.target)

    @abstractmethod
    def __call__(self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe) -> Training:
        """Train `model` in place, with a backdoor.

        Args:
            model: freshly initialised.
            train: the clean training set.
            rows: rows of it drawn for poisoning, int64 (p,).
            recipe: how to train.
        """


class DataPoisoning(Attack):
    """An attack that is over before training starts: stamp some rows, relabel them, train."""

    @abstractmethod
    def trigger(self, x: Tensor) -> Tensor:
        """float (B, C, H, W) in [0, 1] -> the same, triggered; the input is left untouched."""

    def __call__(self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe) -> Training:
        yield from fit(model, poison(train, rows, self, self.trigger, model.num_classes), recipe)
        return self.trigger


def poison(
    data: Images, rows: Tensor, attack: Attack, trigger: Trigger, num_classes: int
) -> Images:
    """A copy of the data with some rows triggered, stored as 8 bits, and relabelled."""
    x, y = data.x.clone(), data.y.clone()
    for part in rows.split(1024):
        x[part] = to_uint8(trigger(data.floats(part)))
    y[rows] = attack.relabel(data.y[rows], num_classes)
    return replace(data, x=x, y=y)
