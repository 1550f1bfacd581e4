"""Shared by attacks that need something made first (LF, SSBA): assets, made from the clean training
set once for all runs that need them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from attacks.base import Attack, Trigger, poison
from benchmark.data import Images
from benchmark.plugin import origin
from benchmark.train import Recipe, train_model
from models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Asset(ABC):
    """The hyper-parameters that an asset depends on; called, it makes the asset.

    The attack's ratio and label map are not among them, so that runs share what they can.
    """

    revision: ClassVar[int] = 1
    """Raised when the same fields come to mean other numbers."""
    model_state: ClassVar[Literal["unused", "fresh", "clean"]]
    """The model it is called with: ignored, freshly initialised, or trained on clean data."""

    def canonical(self) -> dict[str, Any]:
        """What identifies the asset, beside data, seed and, if it uses them, model and recipe."""
        name = {"asset": type(self).__name__, "revision": self.revision}
        return asdict(self) | name | origin(type(self))

    @abstractmethod
    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> dict[str, Tensor]:
        """Make the asset: tensors by name.

        Args:
            model: on the data's device; see `model_state`. It may be changed in place.
            train: the clean training set.
            recipe: how victims are trained.
        """


@dataclass(frozen=True, kw_only=True)
class CleanModel(Asset):
    """Weights of a model trained on clean data: patterns are made from it, victims compared."""

    model_state: ClassVar[Literal["fresh"]] = "fresh"

    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> dict[str, Tensor]:
        train_model(model, train, recipe)
        return dict(model.state_dict())


class AssetPoisoning(Attack):
    """An attack that stamps some rows before training, with a trigger that needs an asset."""

    @property
    @abstractmethod
    def asset(self) -> Asset:
        """What has to be made first."""

    @abstractmethod
    def trigger(self, asset: Mapping[str, Tensor]) -> Trigger:
        """The trigger, from the asset's tensors."""

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Mapping[str, Tensor],
    ) -> Trigger:
        trigger = self.trigger(asset)
        train_model(model, poison(train, rows, self, trigger, model.num_classes), recipe)
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
