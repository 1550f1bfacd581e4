"""Shared by attacks that need something made first (LF, SSBA): assets, made from the clean training
set once for all runs that need them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.plugin import origin, pickled
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.models.classifier import Classifier


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

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self)

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
