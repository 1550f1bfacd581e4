"""Assets: what an attack makes from the clean training set, once for all runs that need it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from attacks.base import Attack, Training, Trigger, poison
from benchmark.data import Images
from benchmark.train import Recipe, fit
from models.classifier import Classifier

Making = Generator[Classifier, None, dict[str, Tensor]]
"""Yields the model it was given after each epoch and returns the asset's tensors by name."""


@dataclass(frozen=True, kw_only=True)
class Asset(ABC):
    """The hyper-parameters that an asset depends on; called, it makes the asset.

    The attack's ratio and label map are not among them, so that runs share what they can.
    """

    revision: ClassVar[int] = 1
    """Raised when the same fields come to mean other numbers."""
    model: ClassVar[Literal["unused", "fresh", "clean"]]
    """What it does with the model it is given: nothing, train it, or read a clean-trained one."""

    def canonical(self) -> dict[str, Any]:
        """What identifies the asset, beside data, seed and, if it uses them, model and recipe."""
        return {"asset": type(self).__name__, "revision": self.revision, **asdict(self)}

    @abstractmethod
    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> Making:
        """Make the asset.

        Args:
            model: on the data's device; trained on clean data if the asset's `model` is "clean",
                else freshly initialised.
            train: the clean training set.
            recipe: how victims are trained.
        """


@dataclass(frozen=True, kw_only=True)
class CleanModel(Asset):
    """Weights of a model trained on clean data: patterns are made from it, victims compared."""

    model: ClassVar[Literal["fresh"]] = "fresh"

    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> Making:
        yield from fit(model, train, recipe)
        return dict(model.state_dict())


class AssetPoisoning(Attack):
    """An attack that stamps some rows before training, with a trigger that needs an asset."""

    @property
    @abstractmethod
    def asset(self) -> Asset:
        """What has to be made first."""

    def make(self, model: Classifier, train: Images, recipe: Recipe) -> Making:
        """Make the asset on the spot, from a copy of the model where it needs one."""
        used = copy.deepcopy(model)
        if self.asset.model == "clean":
            yield from fit(used, train, recipe)
        return (yield from self.asset(used, train, recipe))

    @abstractmethod
    def trigger(self, asset: Mapping[str, Tensor]) -> Trigger:
        """The trigger, from the asset's tensors."""

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Mapping[str, Tensor] | None = None,
    ) -> Training:
        """Train `model` in place, with a backdoor; an asset that is not given is made first."""
        if asset is None:
            asset = yield from self.make(model, train, recipe)
        trigger = self.trigger(asset)
        yield from fit(model, poison(train, rows, self, trigger, model.num_classes), recipe)
        return trigger
