"""An attacker who trains adversarially (SAU paper, arXiv 2307.10562, appendix B.6, table 15; Madry
et al., ICLR 2018, arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sau_bench.attacks.wrapped import Wrapped
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Batch
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Adversarial(Wrapped):
    """Every training image, poisoned ones included, is replaced by its adversarial example.

    min over theta of E[CE(f(x + e), y)], e the maximiser of the same loss with |e| <= eps in every
    pixel and x + e in [0, 1], y the label that the attack trains on. The search begins at a uniform
    draw and takes sign steps (PGD).

    attack: the attack, as in a config's `attacks`. eps: bound, in pixels of [0, 1], above 0 and at
    most 1. step: of the search, the same. steps: 1 to 1,000.

    With SAU's own ball (`eps: 0.2, step: 0.05`) this is an attacker who knows where SAU searches.

    Note: the paper gives 10 steps and 8/255; step, start and clipping are choices of this project.
    The search sees the model in evaluation mode, so that batch norm counts each example once.
    """

    name: ClassVar[str] = "Adversarial"
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "eps", "step", above=0, most=1)
        check_range(self, "steps", least=1, most=1000)

    @property
    def label(self) -> str:
        return f"{self.attack.label} (adversarial)"

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        training = model.training
        e = self.perturbation(model.eval(), batch.x.detach(), batch.y)
        model.train(training)
        # The sum keeps the gradient of generators that draw triggers into x.
        return F.cross_entropy(model(batch.x + e), batch.y)

    def perturbation(self, model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        """One perturbation for each image of x, float (B, C, H, W) in [0, 1], detached."""
        e = self.project(x, (2 * torch.rand_like(x) - 1) * self.eps)
        for _ in range(self.steps):
            e.requires_grad_()
            value = F.cross_entropy(model(x + e), y, reduction="sum")
            (gradient,) = torch.autograd.grad(value, e)
            e = self.project(x, e.detach() + self.step * gradient.sign())
        return e

    def project(self, x: Tensor, e: Tensor) -> Tensor:
        """The nearest perturbations with |e| <= eps and x + e in [0, 1]."""
        return (x + e.clamp(-self.eps, self.eps)).clamp(0, 1) - x
