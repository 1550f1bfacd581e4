"""A plain step of ANP (arXiv 2110.14430). 9 forward passes an image.

Three times a forward pass and `backward`: with the noise at first, without it, with the noise at
the end. Weights of convolutions get gradients that nobody reads.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainNoisyBatchNorm(nn.Module):
    """Batch norm with weight w (m + d) and bias b (1 + xi)."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn = bn
        self.mask = nn.Parameter(torch.ones_like(bn.weight))
        self.d = nn.Parameter(torch.zeros_like(bn.weight))
        self.xi = nn.Parameter(torch.zeros_like(bn.weight))
        self.noisy = False

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        scale = self.mask + self.d if self.noisy else self.mask
        weight, bias = bn.weight * scale, bn.bias * (1 + self.xi) if self.noisy else bn.bias
        return F.batch_norm(
            x, bn.running_mean, bn.running_var, weight, bias, True, bn.momentum or 0.1, bn.eps
        )


def plain_masked(model: nn.Module) -> nn.Module:
    """A copy of the model whose batch-norm layers have masks and noise."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, PlainNoisyBatchNorm(child))
    return model


def plain_optimizer(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    """SGD on the masks of a masked model."""
    return torch.optim.SGD([layer.mask for layer in noisy_layers(model)], lr, momentum=0.9)


def plain_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float = 0.4,
    steps: int = 1,
    alpha: float = 0.2,
) -> float:
    """Perturb the neurons, then move the masks; returns the loss. model: of `plain_masked`."""
    model.train()
    layers = noisy_layers(model)
    for layer in layers:
        nn.init.uniform_(layer.d, -eps, eps)
        nn.init.uniform_(layer.xi, -eps, eps)
        layer.noisy = True
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for layer in layers:
                for noise in (layer.d, layer.xi):
                    assert noise.grad is not None
                    noise.add_(eps / steps * noise.grad.sign())
    model.zero_grad()
    noisy = F.cross_entropy(model(images), labels)
    for layer in layers:
        layer.noisy = False
    loss = alpha * F.cross_entropy(model(images), labels) + (1 - alpha) * noisy
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for layer in layers:
            layer.mask.clamp_(0, 1)
    return loss.item()


def noisy_layers(model: nn.Module) -> list[PlainNoisyBatchNorm]:
    return [module for module in model.modules() if isinstance(module, PlainNoisyBatchNorm)]
