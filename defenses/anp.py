"""ANP: adversarial neuron pruning (Wu & Wang, NeurIPS 2021, arXiv 2110.14430)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range, shown
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Precision, batch, precision
from sau_bench.defenses.base import Candidate, Defense
from sau_bench.defenses.batch_norm import batch_norms, pruned
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)

Risk = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(m, d, xi, images, labels) -> mean cross-entropy; m, d, xi over all channels."""


@dataclass(frozen=True, kw_only=True)
class ANP(Defense):
    """Learn which neurons the backdoor needs by perturbing them adversarially, then prune those.

    A neuron is a batch-norm channel with weight w, bias b and mask m in [0, 1]:
    min over m of alpha L(m w, b) + (1 - alpha) max over d, xi in [-eps, eps] of
    L((m + d) w, (1 + xi) b). A candidate has weight 0 where m is at most its threshold.

    eps: start of the perturbation, relative to w and b, 0 to 100; the ascent moves it further by at
    most as much again, unclipped. steps: of the ascent, eps / steps each, 1 to 10,000. alpha:
    weight of the loss without perturbation, in [0, 1]. lr: of SGD on m, 0 to 1,000. momentum: of
    the same, in [0, 1). iterations: steps on m, 1 to 10^7. batch_size: images drawn with
    replacement for each, 1 to 2^20. augment: crop and, where allowed, flip. precision: of the
    forward and backward passes, as of a recipe. thresholds: in [0, 1], different, one candidate
    each.

    Note: the biases of pruned channels stay, as in the authors' code. Defaults are those of the
    published cells; the authors' are `lr: 0.2`, `batch_size: 128` and threshold 0.2. The SAU paper
    fixes the threshold at 0.4. Published masks are rounded to four decimals before they are
    compared with a threshold, those here are not.
    """

    name: ClassVar[str] = "ANP"
    yields: ClassVar = "candidates"
    select: ClassVar[str] = "fixed:0.4"
    smoke: ClassVar[dict[str, Any]] = {"iterations": 5, "batch_size": 32}

    eps: float = 0.4
    steps: int = 1
    alpha: float = 0.2
    lr: float = 0.01
    momentum: float = 0.9
    iterations: int = 2000
    batch_size: int = 256
    augment: bool = True
    precision: Precision = "fp32"
    thresholds: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(19))

    def __post_init__(self) -> None:
        check_range(self, "steps", least=1, most=10_000)
        check_range(self, "iterations", least=1, most=10**7)
        check_range(self, "batch_size", least=1, most=2**20)
        check_range(self, "eps", least=0, most=100)
        check_range(self, "lr", least=0, most=1000)
        check_range(self, "momentum", least=0, below=1)
        check_range(self, "alpha", "thresholds", least=0, most=1)
        if not self.thresholds:
            raise ValueError("thresholds is empty, accepted: at least one")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ValueError(f"thresholds is {shown(self.thresholds)}, accepted: each one once")

    @property
    def settings(self) -> tuple[float, ...]:
        return self.thresholds

    def __call__(self, model: Classifier, data: Images) -> Iterator[Candidate]:
        m = self.masks(model, data)
        few, many = (int((m <= tau + 1e-6).sum()) for tau in (0.2, 0.4))
        note("of %d channels %d have m <= 0.2 and %d have m <= 0.4", len(m), few, many)
        for tau in self.thresholds:
            # The slack is for thresholds such as 0.15 that binary fractions miss.
            yield tau, pruned(model, m <= tau + 1e-6)

    def masks(self, model: nn.Module, data: Images) -> Tensor:
        """m of all channels, (channels,) in [0, 1]; the model stays as it is."""
        risk = masked_risk(model)
        m = torch.cat([torch.ones_like(bn.weight) for bn in batch_norms(model).values()])
        m, still = m.detach().requires_grad_(), torch.zeros_like(m)
        optimizer = torch.optim.SGD([m], self.lr, momentum=self.momentum)
        model.train()
        for i in range(1, self.iterations + 1):
            rows = torch.randint(len(data), (self.batch_size,), device=data.y.device)
            x, y, _ = batch(data, rows, self.augment)
            with precision(self.precision, data.y.device):
                d, xi = self.perturbation(risk, m.detach(), x, y)
                # One after the other, so that only one graph is in memory.
                (quiet,) = torch.autograd.grad(self.alpha * risk(m, still, still, x, y), m)
                (noisy,) = torch.autograd.grad((1 - self.alpha) * risk(m, d, xi, x, y), m)
            m.grad = quiet + noisy
            optimizer.step()
            with torch.no_grad():
                m.clamp_(0, 1)
            if i % 100 == 0:
                log.info("iteration %d", i, extra={"epoch": i, "epochs": self.iterations})
        model.eval()
        return m.detach()

    def perturbation(self, risk: Risk, m: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sign ascent on (d, xi) from a uniform start; not projected (authors' code)."""
        noise = (2 * torch.rand(2, len(m), device=m.device) - 1) * self.eps
        for _ in range(self.steps):
            noise.requires_grad_()
            (gradient,) = torch.autograd.grad(risk(m, noise[0], noise[1], x, y), noise)
            noise = noise.detach() + self.eps / self.steps * gradient.sign()
        return noise[0], noise[1]


def masked_risk(model: nn.Module) -> Risk:
    """The risk of the model with batch-norm weights w (m + d) and biases b (1 + xi).

    Parameters and running statistics of the model stay as they are.
    """
    layers = batch_norms(model)
    sizes = [bn.num_features for bn in layers.values()]
    w = torch.cat([bn.weight for bn in layers.values()]).detach()
    b = torch.cat([bn.bias for bn in layers.values()]).detach()
    # In training mode batch norm updates its statistics in place: in these copies.
    scratch = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def risk(m: Tensor, d: Tensor, xi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        weights, biases = (w * (m + d)).split(sizes), (b * (1 + xi)).split(sizes)
        tensors = dict(scratch)
        for name, weight, bias in zip(layers, weights, biases, strict=True):
            tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return F.cross_entropy(functional_call(model, tensors, (x,)), y)

    return risk
