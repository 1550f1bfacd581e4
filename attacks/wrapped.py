"""Shared by attacks that hold another one: naming it in a config, training it by another loss."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import PlainValidator
from torch import Tensor

from sau_bench.attacks.asset import Asset
from sau_bench.attacks.base import Attack, Tensors, Trigger
from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.train import Batch, Recipe
from sau_bench.models.classifier import Classifier


def nested(spec: Any) -> Any:
    """The attack itself, or the one that a config's entry names."""
    return spec if isinstance(spec, Attack) else build("attacks", spec)


Nested = Annotated[Attack, PlainValidator(nested)]
"""The type of a field that holds an attack, given as in a config's `attacks`."""


@dataclass(frozen=True, kw_only=True)
class Wrapped(Attack):
    """Another attack, whose victim minimises another loss: all else is that attack's.

    attack: any that lets its loss be chosen, that is, whose `__call__` takes `loss`; `ratio`,
    `labels` and `target` belong to it.
    """

    attack: Nested = field(default_factory=lambda: nested("badnets"))
    ratio: float = field(init=False, default=0.0)
    labels: Literal["all2one", "all2all"] = field(init=False, default="all2one")
    target: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if "loss" not in inspect.signature(self.attack.__call__).parameters:
            raise ValueError(
                f"attack is {self.attack.label}, accepted: an attack whose __call__ takes `loss`"
            )
        for name in ("ratio", "labels", "target"):
            object.__setattr__(self, name, getattr(self.attack, name))

    @abstractmethod
    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """What the victim minimises on a batch of poisoned and clean images, a scalar."""

    def __call__(
        self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe, asset: Tensors
    ) -> Trigger:
        attack: Any = self.attack
        trigger: Trigger = attack(model, train, rows, recipe, asset, loss=self.loss)
        return trigger

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | {"attack": self.attack.canonical()}

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        return self.attack.preview(size, asset)

    @property
    def parts(self) -> tuple[Attack, ...]:
        return self.attack.parts

    @property
    def asset(self) -> Asset | None:
        return self.attack.asset

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        self.attack.check(dataset, recipe)

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        return self.attack.draw(y, seed, taken)

    def split(self, rows: Tensor, size: int) -> tuple[Tensor, ...]:
        return self.attack.split(rows, size)

    def relabel(self, y: Tensor, num_classes: int) -> Tensor:
        return self.attack.relabel(y, num_classes)

    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        return self.attack.poisoned_set(train, rows, trigger, num_classes, batch_size)
