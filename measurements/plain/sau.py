"""A plain step of SAU (arXiv 2307.10562). 48 forward passes an image.

Of the inner maximisation each of 5 iterations: both models on clean and on perturbed images (4) and
`backward` through both (4), 40 together; then the step: the model on both kinds of images (2),
their backward pass (4), the backdoored model on both (2).
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
    backdoored: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float = 0.2,
    step: float = 0.2,
    steps: int = 5,
) -> float:
    """Find shared adversarial examples of both models, unlearn them; returns the loss.

    backdoored: a copy of the model as it was before the first step; it stays as it is.
    """
    model.eval()
    backdoored.eval()
    size = len(images)
    e = torch.full_like(images, eps)
    for _ in range(steps):
        e.requires_grad_()
        with torch.no_grad():
            clean, clean0 = model(images).argmax(1), backdoored(images).argmax(1)
        logits, logits0 = model(images + e), backdoored(images + e)
        found, found0 = logits.argmax(1), logits0.argmax(1)
        kept, kept0 = found == clean, found0 == clean0
        shared = ~kept & ~kept0 & (found == found0)
        ce = F.cross_entropy(logits, labels, reduction="none")[kept].sum()
        ce0 = F.cross_entropy(logits0, labels, reduction="none")[kept0].sum()
        p, q = logits.softmax(1).clamp_min(1e-8), logits0.softmax(1).clamp_min(1e-8)
        middle = (p + q) / 2
        js = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
        loss = -0.01 * (ce + ce0) / (2 * size) + js[~shared].sum() / size
        loss.backward()
        assert e.grad is not None
        e = (e.detach() - step * e.grad.sign()).clamp(-eps, eps)
        if shared.all():
            break
    optimizer.zero_grad()
    backdoored.zero_grad()
    logits, perturbed = model(torch.cat([images, images + e])).split(size)
    with torch.no_grad():
        bad, clean0 = backdoored(images + e).argmax(1), backdoored(images).argmax(1)
    counted = (bad != labels) & (bad != clean0)
    probabilities = perturbed.softmax(1)
    q = probabilities.gather(1, bad[:, None])[:, 0]
    rest = (probabilities * (1 - F.one_hot(bad, logits.shape[1]))).sum(1)
    terms = -(1e-6 + rest.clamp(max=0.999)).log() - (1 + 1e-6 - q.clamp(min=0.001)).log()
    loss = F.cross_entropy(logits, labels) + (terms / 2)[counted].sum() / size
    loss.backward()
    optimizer.step()
    return loss.item()
