"""LF: a smooth, low-frequency pattern (Zeng, Park, Mao & Jia, ICCV 2021, arXiv 2104.03413)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sau_bench.attacks.asset import Asset
from sau_bench.attacks.base import AssetPoisoning, Tensors, Trigger
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import EPOCHS, check_range
from sau_bench.benchmark.train import Recipe
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LF(AssetPoisoning):
    """x becomes x + v with v a targeted universal perturbation of a clean model, low-pass filtered.

    images: clean images that the pattern is made from, 1 to 100,000. passes: over them at most,
    1 to 100,000. delta: the search ends once a share 1 - delta of other images changes class, in
    [0, 1). amplitude: v spans [0, amplitude], in (0, 1].

    Note: the published code measures the share on 10 test images of each class. An attack sees
    no test data here: the share is that of up to 10 training images of each class (at most a tenth
    of it), from which the pattern is not made. The published generator adds the pattern before
    normalisation in one place and after it in another; here it is always added to pixels.
    """

    name: ClassVar[str] = "LF"
    smoke: ClassVar[dict[str, Any]] = {"images": 4, "passes": 1}

    images: int = 100
    passes: int = 50
    delta: float = 0.8
    amplitude: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "images", "passes", least=1, most=EPOCHS)
        check_range(self, "delta", least=0, below=1)
        check_range(self, "amplitude", above=0, most=1)

    @property
    def asset(self) -> UniversalPattern:
        return UniversalPattern(
            target=self.target,
            images=self.images,
            passes=self.passes,
            delta=self.delta,
            amplitude=self.amplitude,
        )

    def trigger(self, asset: Tensors) -> Trigger:
        pattern = asset["pattern"]
        return lambda x: (x + pattern.to(x.device)).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class UniversalPattern(Asset):
    """A "pattern", float (1, C, H, W), that drives a clean model to `target`; fields as in `LF`."""

    model_state: ClassVar[Literal["clean"]] = "clean"

    target: int
    images: int
    passes: int
    delta: float
    amplitude: float

    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> dict[str, Tensor]:
        judged = _some_of_each_class(train.y)
        others = torch.ones_like(train.y, dtype=torch.bool)
        others[judged] = False
        drawn = others.nonzero()[:, 0]
        drawn = drawn[torch.randperm(len(drawn))[: self.images].to(drawn.device)]
        pattern = self.search(model, train.floats(drawn), train.floats(judged))
        return {"pattern": pattern.contiguous()}

    def search(self, model: Classifier, x: Tensor, judged: Tensor) -> Tensor:
        """The pattern, float (1, C, H, W).

        x: images that it is made from. judged: images whose predictions end the search. Both float
        (B, C, H, W) in [0, 1].
        """
        model.eval().requires_grad_(False)
        v = torch.zeros_like(x[:1])
        before, judged_before = _classes(model, x), _classes(model, judged)
        rates: list[float] = []
        while len(rates) < self.passes:
            for i in torch.randperm(len(x)).tolist():
                if _classes(model, x[i : i + 1] + v) == before[i]:
                    r = targeted_deepfool(model, x[i : i + 1] + v, self.target)
                    if r is not None:
                        v = rescale(smooth(v + smooth(r)), self.amplitude)
            rates.append((_classes(model, judged + v) != judged_before).float().mean().item())
            settled = len(rates) >= 5 and max(rates[-5:]) - min(rates[-5:]) < 0.01
            if rates[-1] >= 1 - self.delta or settled:
                break
        report = log.info if rates[-1] >= 1 - self.delta else log.warning
        report("the pattern fools %.3f of clean images, passes: %d", rates[-1], len(rates))
        return v


def targeted_deepfool(
    model: Classifier, z: Tensor, target: int, *, overshoot: float = 0.02, steps: int = 200
) -> Tensor | None:
    """A small perturbation that makes z, (1, C, H, W), the target class; None if `steps` are spent.

    Each step crosses the linearised boundary between the target and the class that z began with
    (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599). Nothing is clipped.
    """
    r = torch.zeros_like(z)
    source = int(_classes(model, z))
    for _ in range(steps - 1):
        moved = (z + r).requires_grad_()
        logits = model(moved)[0]
        if int(logits.argmax()) == target:
            return r
        # One backward pass: the gradient of a difference is the difference of the gradients.
        margin = logits[target] - logits[source]
        (w,) = torch.autograd.grad(margin, moved)
        step = margin.detach().abs() / w.square().sum() * w
        if not step.isfinite().all():
            return None
        r = r + (1 + overshoot) * step
    return None


def smooth(x: Tensor) -> Tensor:
    """x, (1, C, H, W), under a Gaussian of 30 taps, zeros outside."""
    taps = (-0.5 * ((torch.arange(30, device=x.device) - 14.5) * 5 / 30).square()).exp()
    taps = taps / taps.sum()
    # Channels as a batch: each is filtered alone. An even number of taps leaves 14 and 15.
    padded = F.pad(x.transpose(0, 1), (14, 15, 14, 15))
    filtered = F.conv2d(F.conv2d(padded, taps.view(1, 1, 30, 1)), taps.view(1, 1, 1, 30))
    return filtered.transpose(0, 1)


def rescale(v: Tensor, amplitude: float) -> Tensor:
    """v stretched to [0, amplitude]; a constant v, which has no scale, stays as it is."""
    low, high = v.min(), v.max()
    return (v - low) / (high - low) * amplitude if high > low else v


@torch.no_grad()
def _classes(model: Classifier, x: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in x.split(500)])


def _some_of_each_class(y: Tensor) -> Tensor:
    """Up to 10 rows of each class, at most a tenth of it but at least one."""
    order = torch.randperm(len(y)).to(y.device)
    classes = [order[y[order] == k] for k in y.unique()]
    return torch.cat([rows[: max(1, min(10, len(rows) // 10))] for rows in classes])
