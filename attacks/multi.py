"""Two attacks on one model, each with a trigger and a target (SAU paper, table 24)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sau_bench.attacks.asset import Asset
from sau_bench.attacks.base import (
    Attack,
    DataPoisoning,
    Tensors,
    Trigger,
    Triggers,
    poison,
    poisoned,
    triggers_of,
)
from sau_bench.attacks.wrapped import Nested, nested
from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.train import Recipe
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Multi(Attack):
    """Disjoint rows are poisoned by two attacks; the triggers are scored one by one.

    first: any attack but this one, as in a config's `attacks`. second: one that stamps images
    before training and changes their labels; its target differs from the first's, and their
    ratios add up to at most 1.

    ACC is of the model; ASR and R-ACC are means over the two triggers, and each trigger has
    columns of its own in the rows. `ratio`, `labels` and `target` belong to the two attacks.

    Note: the paper does not say how it divides the poisoned images; undefended ASRs of 95 % for
    the second trigger suggest the full ratio for each. Where the first attack poisons batches and
    not fixed rows (WaNet, Input-Aware), some images carry both triggers and the first one's label.
    """

    name: ClassVar[str] = "Multi"

    first: Nested = field(default_factory=lambda: nested("blended"))
    second: Nested = field(default_factory=lambda: nested({"badnets": {"target": 1}}))
    ratio: float = field(init=False, default=0.0)
    labels: Literal["all2one", "all2all"] = field(init=False, default="all2one")
    target: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not isinstance(self.second, DataPoisoning) or self.second.clean_label:
            raise ValueError(
                f"second is {self.second.label}, accepted: an attack that stamps images before "
                "training and changes their labels"
            )
        if isinstance(self.first, Multi) or self.first.target == self.second.target:
            raise ValueError(
                f"first is {self.first.label} with target {self.first.target}, accepted: one "
                f"attack with a target other than the second's, {self.second.target}"
            )
        if self.first.ratio + self.second.ratio > 1 + 1e-9:
            raise ValueError(
                f"ratios are {self.first.ratio} and {self.second.ratio}, accepted: at most 1 in all"
            )
        object.__setattr__(self, "ratio", self.first.ratio + self.second.ratio)
        object.__setattr__(self, "labels", self.first.labels)
        object.__setattr__(self, "target", self.first.target)

    @property
    def label(self) -> str:
        return f"{self.first.label} + {self.second.label}"

    @property
    def parts(self) -> tuple[Attack, ...]:
        return self.first, self.second

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        for part in self.parts:
            part.check(dataset, recipe)

    @property
    def asset(self) -> Asset | None:
        return self.first.asset

    def canonical(self) -> dict[str, Any]:
        parts = {"first": self.first.canonical(), "second": self.second.canonical()}
        return super().canonical() | parts

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        """The first attack's rows, which may be bound to a class, then the second's."""
        first = self.first.draw(y, seed, taken)
        both = first if taken is None else torch.cat((taken, first))
        return torch.cat((first, self.second.draw(y, seed, both)))

    def split(self, rows: Tensor, size: int) -> tuple[Tensor, ...]:
        # Only the first may be bound to a class that is too small.
        second = round(self.second.ratio * size)
        return rows.split((len(rows) - second, second))

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        assert isinstance(self.second, DataPoisoning)
        first = self.first.preview(size, asset)
        return Triggers((first, self.second.trigger)) if first else None

    def __call__(
        self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe, asset: Tensors
    ) -> Trigger:
        first, second = self.split(rows, len(train))
        assert isinstance(self.second, DataPoisoning)
        with poisoned(train, second, self.second, self.second.trigger, model.num_classes):
            trigger = self.first(model, train, first, recipe, asset)
        return Triggers((trigger, self.second.trigger))

    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        first, second = self.split(rows, len(train))
        trigger_1, trigger_2 = triggers_of(trigger)
        stamped = poison(train, second, self.second, trigger_2, num_classes)
        return self.first.poisoned_set(stamped, first, trigger_1, num_classes, batch_size)
