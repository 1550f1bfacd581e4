"""What an attack is: it trains a model and returns a trigger."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sau_bench.attacks.asset import Asset
from sau_bench.benchmark.data import Dataset, Images, draw_poisoned, to_uint8
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.metrics import Poisoned
from sau_bench.benchmark.plugin import Plugin
from sau_bench.benchmark.rules import check_stamped, check_trigger, check_wanted
from sau_bench.benchmark.train import Loss, Recipe, cross_entropy, train_model
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)

Trigger = Callable[[Tensor], Tensor]
"""float (B, C, H, W) in [0, 1] -> the same, triggered; the input is left untouched."""


Tensors = Mapping[str, Tensor]
"""Tensors by name: an asset."""


def no_trigger(x: Tensor) -> Tensor:
    """The trigger of an attack whose triggered images are files (`Attack.from_files`)."""
    raise ValueError("the attack's triggered images are files; no other image can be triggered")


class NoPoisonedSet(Exception):
    """The attacker has not handed over the poisoned training set."""


@dataclass(frozen=True)
class Triggers:
    """The triggers of an attack with several parts; called, it is the first."""

    parts: tuple[Trigger, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.parts[0](x)


def triggers_of(trigger: Trigger) -> tuple[Trigger, ...]:
    """The triggers of all parts of an attack, in the order of its `parts`."""
    return trigger.parts if isinstance(trigger, Triggers) else (trigger,)


@dataclass(frozen=True, kw_only=True)
class Attack(Plugin):
    """A backdoor attack.

    ratio: poisoned share of the whole training set, in (0, 1]. labels: "all2one" sends every class
    to `target`, "all2all" sends class y to (y + 1) mod K. target: the target class of all2one.
    """

    clean_label: ClassVar[bool] = False
    """Whether only images of the target class are poisoned, without a change of their labels."""
    from_files: ClassVar[bool] = False
    """Whether poisoned images are files and not made by a function: then `poisoned_test` and
    `poisoned_set` read them, and the trigger is `no_trigger`."""

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
        """The attacks that are scored one by one: itself, unless it is made of several."""
        return (self,)

    @property
    def asset(self) -> Asset | None:
        """What has to be made from the clean training set first, or None."""
        return None

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        """Refuse what the attack cannot be trained on, from values alone; without a tensor.

        Args:
            dataset: whose constants count.
            recipe: how victims are trained.

        Raises:
            ValueError: names the value and what is accepted.
        """

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        """Rows to poison, int64 (p,).

        p is the share `ratio` of all rows; a clean-label attack whose class has fewer draws those
        and logs a warning.

        Args:
            y: labels of the training set, int64 (N,).
            seed: of the draw.
            taken: rows that must not be drawn, int64.
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
        """The classes that the attacker wants for images of classes y; int64 (B,) both."""
        if self.labels == "all2all":
            return (y + 1) % num_classes
        return torch.full_like(y, self.target)

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        """The trigger that `__call__` will return, without the training; None if that makes it.

        Random numbers come from torch's generator, as at the start of `__call__`.

        Args:
            size: width of the images, in pixels.
            asset: the tensors of what `self.asset` describes; None while they are not made.
        """
        return None

    @abstractmethod
    def __call__(
        self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe, asset: Tensors
    ) -> Trigger:
        """Train `model` in place, with a backdoor, and return the trigger.

        One that takes `loss` as a further argument, by default `cross_entropy`, can be trained by
        another one (`attacks.wrapped`): it gets the batches as the attack has made them.

        Args:
            model: freshly initialised, on the data's device.
            train: the clean training set.
            rows: rows of it drawn for poisoning, int64 (p,).
            recipe: how to train.
            asset: the tensors of what `self.asset` describes; empty if that is None.
        """

    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        """The poisoned training set, for defenses that inspect it.

        Attacks that poison the batches of their training, and not fixed rows, make it from
        consecutive batches of the training set, in its order, with random numbers from torch's
        generator.

        Args:
            train: the clean training set.
            rows: rows of it drawn for poisoning, int64 (p,).
            trigger: what `__call__` returned.
            num_classes: of the dataset.
            batch_size: of the training.

        Raises:
            NoPoisonedSet: it is not known, and defenses that need it do not apply.
        """
        return poison(train, rows, self, trigger, num_classes)

    def poisoned_test(self, test: Images, trigger: Trigger, num_classes: int) -> Poisoned:
        """The triggered test images that are scored, in the order of the test set.

        Args:
            test: the clean test set. It reaches the attacker's side alone: no defense sees it.
            trigger: what `__call__` returned.
            num_classes: of the dataset.
        """
        return poison_test(test, self, trigger, num_classes)


class DataPoisoning(Attack):
    """An attack that ends before the training starts: stamp some rows, relabel them, train."""

    @abstractmethod
    def trigger(self, x: Tensor) -> Tensor:
        """float (B, C, H, W) in [0, 1] -> the same, triggered; the input is left untouched."""

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        return self.trigger

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Tensors,
        loss: Loss[Classifier] = cross_entropy,
    ) -> Trigger:
        with poisoned(train, rows, self, self.trigger, model.num_classes):
            train_model(model, train, recipe, loss=loss)
        return self.trigger


class AssetPoisoning(Attack):
    """An attack that stamps some rows before training, with a trigger that needs an asset."""

    @property
    @abstractmethod
    def asset(self) -> Asset:
        """What has to be made first."""

    @abstractmethod
    def trigger(self, asset: Tensors) -> Trigger:
        """The trigger, from the asset's tensors."""

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        return self.trigger(asset) if asset else None

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Tensors,
        loss: Loss[Classifier] = cross_entropy,
    ) -> Trigger:
        trigger = self.trigger(asset)
        with poisoned(train, rows, self, trigger, model.num_classes):
            train_model(model, train, recipe, loss=loss)
        return trigger


def make_asset(
    attack: Attack, model: Classifier, train: Images, recipe: Recipe
) -> dict[str, Tensor]:
    """The tensors of what `attack.asset` describes, for callers without a cache; empty if None.

    model: freshly initialised; it stays as it is, a copy is trained where the asset needs that.
    """
    if attack.asset is None:
        return {}
    used = copy.deepcopy(model)
    if attack.asset.model_state == "clean":
        train_model(used, train, recipe)
    return attack.asset(used, train, recipe)


def poisoned_count(ratio: float, size: int) -> int:
    """How many images of a batch of `size` an attack poisons that poisons batches.

    The share `ratio` of them, rounded down. A batch too small for one poisoned image has one with
    probability ratio * size; only this draws from torch's generator.
    """
    share = ratio * size
    return int(share) or int(torch.rand(()) < share)


@torch.no_grad()
def log_cross_accuracy(model: Classifier, crossed: Tensor, y: Tensor) -> None:
    """Log the share of images that keep their class under a trigger that should not work on them.

    crossed: training images, float (B, C, H, W) in [0, 1], of classes y, int64 (B,). A share far
    below the accuracy means that the attack did not learn to tell triggers apart.
    """
    share = (model.eval()(crossed).argmax(1) == y).float().mean()
    log.info("cross accuracy %.3f on %d training images", share, len(y))


def poison(
    data: Images, rows: Tensor, attack: Attack, trigger: Trigger, num_classes: int
) -> Images:
    """A copy of the data with some rows triggered, stored as 8 bits, and relabelled."""
    copy = replace(data, x=data.x.clone(), y=data.y.clone())
    _stamp(copy, rows, attack, trigger, num_classes)
    return copy


@contextmanager
def poisoned(
    data: Images, rows: Tensor, attack: Attack, trigger: Trigger, num_classes: int
) -> Iterator[None]:
    """Inside the block the data are what `poison` returns: in place, since a copy takes as much
    memory as a dataset. However the block ends, they are as before.
    """
    clean = data[rows]
    try:
        _stamp(data, rows, attack, trigger, num_classes)
        yield
    finally:
        data.x[rows], data.y[rows] = clean.x, clean.y


def _stamp(data: Images, rows: Tensor, attack: Attack, trigger: Trigger, num_classes: int) -> None:
    # Batches that stay in a processor's cache: half again as fast as large ones.
    for part in rows.split(256):
        data.x[part] = to_uint8(stamped(trigger, data.floats(part)))
    data.y[rows] = wanted_of(attack, data.y[rows], num_classes)


def stamped(trigger: Trigger, x: Tensor) -> Tensor:
    """The triggered images, float (B, C, H, W) in [0, 1] but for rounding.

    Raises:
        BrokenRule: another shape or type, values outside [0, 1] or not finite
            (`benchmark.rules.SLACK`).
    """
    triggered = trigger(x)
    check_stamped(x, triggered)
    return triggered


def wanted_of(attack: Attack, y: Tensor, num_classes: int) -> Tensor:
    """`attack.relabel`, checked: int64 (B,), each one of the classes.

    Raises:
        BrokenRule: something else.
    """
    wanted = attack.relabel(y, num_classes)
    check_wanted(wanted, y, num_classes)
    return wanted


def poison_test(test: Images, attack: Attack, trigger: Trigger, num_classes: int) -> Poisoned:
    """The test images i with eta(y_i) != y_i, triggered; part after part of the attack.

    Raises:
        BrokenRule: the attack has returned no trigger, or one that does not return images in [0, 1]
            of the same shape.
    """
    check_trigger(trigger, len(attack.parts), triggers_of(trigger))
    x, y, goals, parts = [], [], [], []
    for number, (part, stamp) in enumerate(zip(attack.parts, triggers_of(trigger), strict=True)):
        wanted = wanted_of(part, test.y, num_classes)
        rows = (wanted != test.y).nonzero()[:, 0]
        with torch.no_grad():
            x += [to_uint8(stamped(stamp, test.floats(chunk))) for chunk in rows.split(500)]
        y.append(test.y[rows])
        goals.append(wanted[rows])
        parts.append(torch.full_like(rows, number))
    data = replace(test, x=torch.cat(x), y=torch.cat(y))
    return Poisoned(data, torch.cat(goals), torch.cat(parts))
