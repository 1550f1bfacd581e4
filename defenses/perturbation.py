"""Shared by AT and SAU: the sets of perturbations that they search, and how to move inside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.train import Recipe

Start = Literal["max", "min", "zero", "random"]

UNLEARNING = Recipe(
    batch_size=256,
    optimizer="adam",
    lr=1e-4,
    weight_decay=0.0,
    schedule="constant",
    augment=False,
    batch_norm="frozen",
)
"""How a model is tuned on the perturbed images (SAU paper, appendix C.2; authors' code)."""


@dataclass(frozen=True, kw_only=True)
class PerturbationSet(ABC):
    """A bounded set; all its members act on pixels, before normalisation.

    bound: its radius. step: how far an entry moves along the sign of its gradient. start: where a
    search begins.
    """

    bound: float
    step: float
    start: Start

    @abstractmethod
    def initial(self, x: Tensor) -> Tensor:
        """One perturbation for each image of x, float (B, C, H, W) in [0, 1]."""

    @abstractmethod
    def apply(self, x: Tensor, e: Tensor) -> Tensor:
        """The perturbed images; not clipped to [0, 1], as in the authors' code."""

    @abstractmethod
    def project(self, e: Tensor) -> Tensor:
        """The perturbations, pulled back into the set."""

    def ascend(self, e: Tensor, gradient: Tensor) -> Tensor:
        """One projected step along the sign of the gradient."""
        return self.project(e + self.step * gradient.sign())


@dataclass(frozen=True, kw_only=True)
class NormBall(PerturbationSet):
    """x + e with ||e||_p at most the bound; e is (B, C, H, W).

    Note: for L1 and L2 an image's perturbation is rescaled as a whole onto the sphere, and "max"
    starts at the bound in every entry before that (authors' code); for L1 this is not the
    Euclidean projection.
    """

    norm: Literal["l1", "l2", "linf"]

    def initial(self, x: Tensor) -> Tensor:
        match self.start:
            case "max":
                e = torch.full_like(x, self.bound)
            case "min":
                e = torch.full_like(x, -self.bound)
            case "zero":
                e = torch.zeros_like(x)
            case "random":
                e = torch.rand_like(x)
        return self.project(e)

    def apply(self, x: Tensor, e: Tensor) -> Tensor:
        return x + e

    def project(self, e: Tensor) -> Tensor:
        if self.norm == "linf":
            return e.clamp(-self.bound, self.bound)
        size = e.flatten(1).norm(p=1 if self.norm == "l1" else 2, dim=1).clamp_min(1e-12)
        return e * (self.bound / size).clamp_max(1).view(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Flow(PerturbationSet):
    """Bilinear resampling along a flow field (Xiao et al., ICLR 2018); e is (B, 2, H, W).

    The bound is on each entry, in units of the [-1, 1] sampling grid.

    Note: `start` is ignored, the search begins at a uniform draw. Bound, step and start are choices
    of this project, the SAU paper does not print them.
    """

    def initial(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        uniform = torch.rand(batch, 2, height, width, device=x.device)
        return (2 * uniform - 1) * self.bound

    def apply(self, x: Tensor, e: Tensor) -> Tensor:
        theta = torch.eye(2, 3, device=x.device).expand(len(x), 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=True) + e.permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)

    def project(self, e: Tensor) -> Tensor:
        return e.clamp(-self.bound, self.bound)


def adversarial(
    model: nn.Module, within: PerturbationSet, x: Tensor, y: Tensor, steps: int
) -> Tensor:
    """Inner maximisation of adversarial training: cross-entropy of the current model alone.

    Returns one perturbation for each image of x, detached.
    """
    e = within.initial(x)
    for _ in range(steps):
        e.requires_grad_()
        value = F.cross_entropy(model(within.apply(x, e)), y, reduction="sum")
        (gradient,) = torch.autograd.grad(value, e)
        e = within.ascend(e.detach(), gradient)
    return e
