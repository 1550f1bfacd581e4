"""A plain step of the search of NC (Wang et al., IEEE S&P 2019), for one class.

2 forward passes an image and class: the network is frozen, so that `backward` gives the inputs'
gradients alone. An epoch of the search is this for each batch of each class, one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainTrigger(nn.Module):
    """A mask and a pattern for one class, both tanh / 2 + 1 / 2 of free variables."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.raw_mask = nn.Parameter(torch.ones(shape[1:], device=device))
        self.raw_pattern = nn.Parameter(torch.ones(shape, device=device))

    def mask(self) -> Tensor:
        """(H, W) in [0, 1]."""
        return self.raw_mask.tanh() / (2 + 1e-7) + 0.5

    def pattern(self) -> Tensor:
        """(C, H, W) in [0, 1]."""
        return self.raw_pattern.tanh() / (2 + 1e-7) + 0.5

    def forward(self, images: Tensor) -> Tensor:
        """The images under the trigger, blended as pixels."""
        return (1 - self.mask()) * images + self.mask() * self.pattern()


def plain_optimizer(trigger: PlainTrigger) -> torch.optim.Optimizer:
    return torch.optim.Adam(trigger.parameters(), lr=0.1, betas=(0.5, 0.9))


def plain_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: int,
    trigger: PlainTrigger,
    optimizer: torch.optim.Optimizer,
    *,
    cost: float = 1e-3,
) -> tuple[float, float]:
    """Move the trigger of one class; returns the share of images it wins and the mask's size.

    labels: unused, the search wants every image in the class `target`.
    """
    model.eval().requires_grad_(False)
    wanted = torch.full_like(labels, target)
    optimizer.zero_grad()
    logits = model(trigger(images))
    size = trigger.mask().abs().sum()
    loss = F.cross_entropy(logits, wanted) + cost * size
    loss.backward()
    optimizer.step()
    return (logits.argmax(1) == wanted).float().mean().item(), size.item()
