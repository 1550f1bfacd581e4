"""Adversarial risks of a defended model: what the SAU paper plots beside ACC and ASR (Wei et al.,
NeurIPS 2023, arXiv 2307.10562, figures 1, 3 and 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images

IMAGES = 1000
"""Test images of a measurement: a standard error of at most 1.6 points of each risk."""
EPS, STEP, STEPS = 0.2, 0.2, 5
"""The ball and the search of the paper: L-infinity bound and sign step in pixels of [0, 1]."""
LAMBDA_3, LAMBDA_4 = 0.01, 1.0
"""Weights of L_adv and L_share in the paper's search."""
BATCH = 250
"""Images that are searched together."""

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits of f and f0, (B, K), and labels (B,) -> what a search climbs, (B,)."""


def risks(model: nn.Module, backdoored: nn.Module, data: Images) -> dict[str, float]:
    """Shares of images in [0, 1] for which a perturbation e, |e| <= EPS in every pixel, is found.

    With f the model and f0 the backdoored one an image counts

        for adv_risk           if f(x + e) != y at a point of any search,
        for shared_risk        if f(x + e) = f0(x + e) != y at a point of SAU's own search,
        for shared_risk_joint  if so at a point of any search.

    Of three searches the first climbs the cross-entropy of f, the second what SAU climbs (equation
    13), the third the probability of the wrong class that f and f0 together find most likely. They
    begin at e = +EPS, take sign steps and stop at the first example; x + e is not clipped to
    [0, 1], as in SAU. All shares are lower bounds of the risks that the paper defines;
    shared_risk is what SAU sees of the shared adversarial risk, shared_risk_joint is closer to it.

    Args:
        model, backdoored: classifiers of images in [0, 1]; they end in evaluation mode.
        data: at least one image.
    """
    model.eval()
    backdoored.eval()
    adversarial, shared, joint = torch.zeros(3, len(data), dtype=torch.bool, device=data.y.device)
    for objective, wanted in ((alone, adversarial), (as_sau, shared), (together, joint)):
        for rows in (~wanted).nonzero()[:, 0].split(BATCH):
            e = torch.full_like(data.floats(rows), EPS)
            for step in range(STEPS + 1):
                y = data.y[rows]
                x = (data.floats(rows) + e).requires_grad_()
                logits, logits0 = model(x), backdoored(x)
                wrong = logits.argmax(1) != y
                both = wrong & (logits0.argmax(1) == logits.argmax(1))
                adversarial[rows] |= wrong
                joint[rows] |= both
                if wanted is shared:
                    shared[rows] |= both
                left = ~wanted[rows]
                if step == STEPS or not left.any():
                    break
                (gradient,) = torch.autograd.grad(objective(logits, logits0, y).sum(), x)
                e = (e + STEP * gradient.sign()).clamp(-EPS, EPS)[left]
                rows = rows[left]
    names = ("adv_risk", "shared_risk", "shared_risk_joint")
    marks = (adversarial, shared, joint)
    return {name: int(mark.sum()) / len(data) for name, mark in zip(names, marks, strict=True)}


def alone(logits: Tensor, logits0: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of f: adversarial training's search."""
    return F.cross_entropy(logits, y, reduction="none")


def as_sau(logits: Tensor, logits0: Tensor, y: Tensor) -> Tensor:
    """lambda_3 L_adv + lambda_4 L_share of equations 10 and 11, with the paper's weights."""
    l_adv = (alone(logits, logits0, y) + alone(logits0, logits, y)) / 2
    p, q = logits.softmax(1).clamp_min(1e-8), logits0.softmax(1).clamp_min(1e-8)
    log_m = ((p + q) / 2).log()
    divergence = (p * (p.log() - log_m) + q * (q.log() - log_m)).sum(1) / 2
    return LAMBDA_3 * l_adv - LAMBDA_4 * divergence


def together(logits: Tensor, logits0: Tensor, y: Tensor) -> Tensor:
    """The largest log p_c + log p0_c over classes c other than y."""
    both = logits.log_softmax(1) + logits0.log_softmax(1)
    return both.scatter(1, y[:, None], -torch.inf).amax(1)
