"""Plain steps of i-BAU (arXiv 2110.03735): one of the ascent, one of the hypergradient.

The ascent costs 4 forward passes an image: predictions, a forward pass, `backward`. The step of the
hypergradient costs the two losses with their gradients (5) and K + 1 products with the Jacobian of
the fixed-point map, each a backward pass through a backward pass (19.6 together as counted).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain_optimizer(model: nn.Module, lr: float = 1e-4) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr, amsgrad=True)


def inner_loss(
    model: nn.Module, d: Tensor, images: Tensor, labels: Tensor, l2: float, scale: Tensor | float
) -> Tensor:
    """What d minimises: -CE(f(x + d), y) + l2 ||d||^2."""
    return l2 * (d**2).sum() - F.cross_entropy(model(images + scale * d), labels)


def plain_ascent(
    model: nn.Module,
    images: Tensor,
    d: Tensor,
    *,
    lr: float = 10.0,
    l2: float = 0.001,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """d after one step of the inner maximisation on a batch; d: (1, C, H, W), 0 at first.

    scale: units of d in pixels, the channels' standard deviations (1, C, 1, 1) or 1.
    """
    model.eval()
    with torch.no_grad():
        predicted = model(images).argmax(1)
    d = d.detach().requires_grad_()
    inner_loss(model, d, images, predicted, l2, scale).backward()
    assert d.grad is not None
    return d.detach() - lr * d.grad


def plain_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    d: Tensor,
    first_images: Tensor,
    first_labels: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    K: int = 5,
    eta: float = 0.1,
    l2: float = 0.001,
    portion: float = 0.01,
    scale: Tensor | float = 1.0,
) -> float:
    """One step along the hypergradient; returns the outer loss.

    d: of the ascent, (1, C, H, W). first_images, first_labels: the batch of the inner loss, the
    same for all steps of a round. portion: share of the images that carry d. scale: as above.
    """
    model.eval()
    theta = [p for p in model.parameters() if p.requires_grad]
    d = d.detach().requires_grad_()
    carriers = torch.randperm(len(images), device=images.device)[: int(portion * len(images))]
    patch = torch.zeros_like(images)
    patch[carriers] = 1
    outer = F.cross_entropy(model(images + patch * (scale * d)), labels)
    u, *w = torch.autograd.grad(outer, [d, *theta])
    inner = inner_loss(model, d, first_images, first_labels, l2, scale)
    (slope,) = torch.autograd.grad(inner, d, create_graph=True)
    phi = d - eta * slope
    v = torch.zeros_like(d)
    for _ in range(K):
        before = v
        v = torch.autograd.grad(phi, d, v, retain_graph=True)[0] + u
        if (v - before).norm() < 1e-10:
            break
    # A parameter that the slope does not depend on has none.
    implicit = torch.autograd.grad(phi, theta, v, allow_unused=True)
    optimizer.zero_grad()
    for parameter, direct, term in zip(theta, w, implicit, strict=True):
        parameter.grad = direct if term is None else direct + term
    optimizer.step()
    return outer.item()
