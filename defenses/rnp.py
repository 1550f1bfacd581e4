"""RNP: reconstructive neuron pruning (Li et al., ICML 2023, arXiv 2305.14876)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range, shown
from sau_bench.benchmark.metrics import share
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Batch, Recipe, fit, train_model
from sau_bench.defenses.base import Candidate, Defense
from sau_bench.defenses.batch_norm import batch_norms, pruned
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RNP(Defense):
    """Unlearn the clean task, recover it by masks alone, and prune what recovery has masked out.

    On the clean data D (sections 3.2 and 3.3 of the paper), with gamma the weights of batch norm:

        theta' = argmax over theta of E_D[CE(f(x; theta), y)]                      (unlearning)
        m      = argmin over m in [0, 1] of alpha E_D[CE(f(x; theta', m gamma'), y)]  (recovering)

    What still fires once the clean task is forgotten belongs mostly to the backdoor, and masks of
    such channels go down. A candidate is the model as it was with gamma = 0 where m is at most its
    threshold.

    clean_threshold: accuracy over an epoch of unlearning, in training mode, at or below which it
    ends, in [0, 1]. alpha: weight of the recovering loss, above 0 and at most 1,000. unlearning:
    how theta' is found, by ascent: SGD at 0.01, divided by 10 after 10 epochs, at most 20 epochs.
    recovering: how masks are found, from 1, clipped after each step: SGD at 0.2, constant, 20
    epochs, no weight decay. thresholds: in [0, 1], different, one candidate each.

    The published setting is 1 % clean data (`clean_ratio: 0.01`); with 5 % published cells collapse
    (SAU paper, table 27).

    Note: defaults are those of the code behind the published cells, whose reported model has the
    threshold 0.7; the authors' batches have 128 images, and their threshold is chosen for each
    attack. Both codes call a gradient clipping before the backward pass, which clips nothing, so
    there is none here. Batch norm is in training mode in both stages; the candidates keep the
    victim's statistics and biases. Published masks are rounded to four decimals, those here are
    not.
    """

    name: ClassVar[str] = "RNP"
    yields: ClassVar = "candidates"
    select: ClassVar[str] = "fixed:0.7"
    smoke: ClassVar[dict[str, Any]] = {"unlearning": {"epochs": 2}, "recovering": {"epochs": 2}}

    clean_threshold: float = 0.2
    alpha: float = 0.2
    unlearning: Recipe = Recipe(epochs=20, batch_size=256, schedule="multistep", period=10)
    recovering: Recipe = Recipe(
        epochs=20, batch_size=256, lr=0.2, weight_decay=0.0, schedule="constant"
    )
    thresholds: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(19))

    def __post_init__(self) -> None:
        check_range(self, "clean_threshold", "thresholds", least=0, most=1)
        check_range(self, "alpha", above=0, most=1000)
        if not self.thresholds:
            raise ValueError("thresholds is empty, accepted: at least one")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ValueError(f"thresholds is {shown(self.thresholds)}, accepted: each one once")
        for name in ("unlearning", "recovering"):
            if getattr(self, name).batch_norm != "train":
                raise ValueError(f"{name}: RNP needs batch_norm: train")

    @property
    def settings(self) -> tuple[float, ...]:
        return self.thresholds

    def __call__(self, model: Classifier, data: Images) -> Iterator[Candidate]:
        batch_norms(model)  # says at once whether the method applies
        m = self.recovered(self.unlearned(model, data), data)
        few, many = (int((m <= tau + 1e-6).sum()) for tau in (0.4, 0.7))
        note("of %d channels %d have m <= 0.4 and %d have m <= 0.7", len(m), few, many)
        for tau in self.thresholds:
            # The slack is for thresholds such as 0.15 that binary fractions miss.
            yield tau, pruned(model, m <= tau + 1e-6)

    def unlearned(self, model: Classifier, data: Images) -> Classifier:
        """A copy of the model that has forgotten the clean task; the model stays as it is."""
        forgetful = copy.deepcopy(model)
        hits: list[Tensor] = []

        def loss(model: Classifier, batch: Batch) -> Tensor:
            logits = model(batch.x)
            hits.append(logits.argmax(1) == batch.y)
            return -F.cross_entropy(logits, batch.y)

        for epoch, _ in enumerate(fit(forgetful, data, self.unlearning, loss=loss), start=1):
            accuracy = share(torch.cat(hits))
            hits.clear()
            if accuracy <= self.clean_threshold or epoch == self.unlearning.epochs:
                note("unlearned to a clean accuracy of %.3f, epochs: %d", accuracy, epoch)
                break
        return forgetful

    def recovered(self, model: Classifier, data: Images) -> Tensor:
        """Masks of all channels, (channels,) in [0, 1], that bring the clean task back.

        model: unlearned; it is changed in place.
        """
        model.requires_grad_(False)
        masks = []
        for layer in batch_norms(model).values():
            masks.append(_Masked(torch.ones_like(layer.weight)))
            parametrize.register_parametrization(layer, "weight", masks[-1])

        @torch.no_grad()
        def clip() -> None:
            for mask in masks:
                mask.m.clamp_(0, 1)

        def loss(model: Classifier, batch: Batch) -> Tensor:
            clip()  # after each step, which is before the next
            return self.alpha * F.cross_entropy(model(batch.x), batch.y)

        train_model(model, data, self.recovering, loss=loss)
        clip()
        return torch.cat([mask.m.detach() for mask in masks])


class _Masked(nn.Module):
    """The weights of a batch norm, (C,), times masks, (C,)."""

    def __init__(self, m: Tensor) -> None:
        super().__init__()
        self.m = nn.Parameter(m)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.m
