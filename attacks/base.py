"""What an attack is: it trains a model and returns a trigger."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from benchmark.data import Images, draw_poisoned, to_uint8
from benchmark.errors import check_range
from benchmark.plugin import Plugin
from benchmark.train import Recipe, fit
from models.classifier import Classifier

if TYPE_CHECKING:
    from attacks.asset import Asset

log = logging.getLogger(__name__)

Trigger = Callable[[Tensor], Tensor]
"""float (B, C, H, W) in [0, 1] -> the same, triggered; the input is left untouched."""

Training = Generator[Classifier, None, Trigger]
"""Yields the model after each epoch and returns the trigger."""


@dataclass(frozen=True)
class Triggers:
    """The triggers of an attack with several parts; called, it is the first."""

    each: tuple[Trigger, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.each[0](x)


def each_trigger(trigger: Trigger) -> tuple[Trigger, ...]:
    """The triggers of each part of an attack, in the order of its `parts`."""
    return trigger.each if isinstance(trigger, Triggers) else (trigger,)


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

    @property
    def parts(self) -> tuple[Attack, ...]:
        """What is scored on its own: the attack itself, unless it is made of several."""
        return (self,)

    @property
    def asset(self) -> Asset | None:
        """What has to be made first; `__call__` is then given it as `asset`."""
        return None

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        """Rows to poison, int64 (p,), of a training set labelled y, without the rows `taken`.

        p is the share `ratio` of all rows, less (with a warning) if a clean-label attack finds
        fewer of its class.
        """
        wanted = round(self.ratio * len(y))
        rows = draw_poisoned(y, wanted, seed, self.target if self.clean_label else None, taken)
        if len(rows) < wanted:
            log.warning("only %d of %d images can be poisoned with clean labels", len(rows), wanted)
        return rows

    def split(self, rows: Tensor, size: int) -> tuple[Tensor, ...]:
        """The drawn rows by `parts`. size: images in the training set."""
        return (rows,)

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


@torch.no_grad()
def log_cross_accuracy(model: Classifier, crossed: Tensor, y: Tensor) -> None:
    """Log how many images keep their class under a trigger that is not meant to work on them.

    crossed: training images, float (B, C, H, W) in [0, 1], of classes y, int64 (B,). A share far
    below the accuracy means that the attack did not learn to tell triggers apart.
    """
    share = (model.eval()(crossed).argmax(1) == y).float().mean()
    log.info("cross accuracy %.3f on %d training images", share, len(y))


def poison(
    data: Images, rows: Tensor, attack: Attack, trigger: Trigger, num_classes: int
) -> Images:
    """A copy of the data with some rows triggered, stored as 8 bits, and relabelled."""
    x, y = data.x.clone(), data.y.clone()
    # Batches that stay in a processor's cache: half again as fast as large ones.
    for part in rows.split(256):
        x[part] = to_uint8(trigger(data.floats(part)))
    y[rows] = attack.relabel(data.y[rows], num_classes)
    return replace(data, x=x, y=y)
