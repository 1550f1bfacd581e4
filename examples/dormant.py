"""Dormant: the features that clean images use least are cut off; the first half of FP."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Candidate, Defense, NotApplicable
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Dormant(Defense):
    """The head forgets a share of its inputs, those of the lowest mean on clean images.

    shares: of the inputs, in [0, 1), different, one candidate each.
    """

    name: ClassVar[str] = "Dormant"
    yields: ClassVar[str] = "candidates"
    select: ClassVar[str] = "own"

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        check_range(self, "shares", least=0, below=1)

    @property
    def settings(self) -> tuple[float, ...]:
        return self.shares

    @torch.no_grad()
    def __call__(self, model: Classifier, data: Images) -> Iterator[Candidate]:
        model.eval()
        if model.classifier is not model.head:
            raise NotApplicable("the head is not behind the convolutions")
        parts = torch.arange(len(data), device=data.y.device).split(500)
        means = [model.features(data.floats(rows), "flat")["flat"].sum(0) for rows in parts]
        activity = torch.stack(means).sum(0) / len(data)
        order = activity.argsort()
        note("%d of %d features are silent", int((activity <= 0).sum()), len(activity))
        for share in self.shares:
            pruned = copy.deepcopy(model)
            pruned.head.weight[:, order[: int(share * len(order))]] = 0
            yield share, pruned
