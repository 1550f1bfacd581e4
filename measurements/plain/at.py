"""A plain step of AT (arXiv 1706.06083) in SAU's setting. 18 forward passes an image.

5 iterations of a forward pass and `backward` (3), then the step on the examples (3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain_optimizer(model: nn.Module, lr: float = 1e-4) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr, amsgrad=True)


def plain_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float = 0.2,
    step: float = 0.2,
    steps: int = 5,
) -> float:
    """Find adversarial examples, train on them; returns the loss."""
    model.eval()
    e = torch.full_like(images, eps)
    for _ in range(steps):
        e.requires_grad_()
        loss = F.cross_entropy(model(images + e), labels, reduction="sum")
        loss.backward()
        assert e.grad is not None
        e = (e.detach() + step * e.grad.sign()).clamp(-eps, eps)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images + e), labels)
    loss.backward()
    optimizer.step()
    return loss.item()
