"""Triggers under reconstruction, one for each class, and the price of their size (Wang et al.,
IEEE S&P 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Triggers:
    """Masks m (K, 1, H, W) and patterns p (K, C, H, W), both tanh / 2 + 1 / 2 of free variables.

    Args:
        classes: K.
        shape: (C, H, W) of an image.
        mean, std: the model's normalisation, (1, C, 1, 1).
        rows: put p through the normalisation as the code behind the published cells does: its C
            constants meet the first C rows, in place of the channels, and other rows enter as if
            they were normalised already. Otherwise p is in pixels.
    """

    def __init__(
        self, classes: int, shape: torch.Size, mean: Tensor, std: Tensor, *, rows: bool
    ) -> None:
        channels, height, width = shape
        self.raw_m = torch.ones(classes, 1, height, width, device=mean.device, requires_grad=True)
        self.raw_p = self.raw_m.detach().repeat(1, channels, 1, 1).requires_grad_()
        self.scale, self.shift = torch.ones_like(std), torch.zeros_like(mean)
        if rows:
            rest = height - channels
            row_mean = F.pad(mean.flatten(), (0, rest))[:, None]
            row_std = F.pad(std.flatten(), (0, rest), value=1.0)[:, None]
            self.scale, self.shift = std / row_std, mean - std * row_mean / row_std

    def values(self, t: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """m and p of some classes, in [0, 1]."""
        return _squash(self.raw_m[t]), _squash(self.raw_p[t])

    def stamp(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The images as the network sees them under each trigger, and the masks' L1 norms.

        x: (B, C, H, W) in [0, 1]. t: classes, (k,). Returns (k * B, C, H, W) and (k,).
        """
        m, p = self.values(t)
        shown = self.scale * p + self.shift
        return ((1 - m)[:, None] * x + (m * shown)[:, None]).flatten(0, 1), m.flatten(1).sum(1)


class CostSchedule:
    """Raises the price after epochs of success, lowers it after epochs of failure.

    All attributes are tensors over classes, (K,); no update reads one back to the host.

    Args:
        cost: the price at first, (K,), above 0.
        success: share of images predicted as the class that counts as success.
        patience: epochs of one kind in a row that change the price: times 2, or over 2^1.5.
        stale: epochs without a gain of 1 % in size that end a class's search, once its price has
            been both raised and lowered.
    """

    def __init__(self, cost: Tensor, *, success: float, patience: int, stale: int) -> None:
        self.success, self.patience, self.stale = success, patience, stale
        self.cost = cost
        self.best = torch.full_like(cost, torch.inf)
        self.active = torch.ones_like(cost, dtype=torch.bool)
        self.raised = torch.zeros_like(self.active)
        self.lowered = torch.zeros_like(self.active)
        self.streak = torch.zeros_like(cost, dtype=torch.int64)
        self.waited = torch.zeros_like(self.streak)

    def update(self, share: Tensor, size: Tensor) -> Tensor:
        """Close an epoch.

        Args:
            share: of images predicted as the class, (K,).
            size: L1 norm of the mask, (K,).

        Returns:
            The classes whose mask is the smallest successful one so far, bool (K,).
        """
        good = share >= self.success
        improved = self.active & good & (size < self.best)
        before, self.best = self.best, torch.where(improved, size, self.best)
        idle = self.best.isfinite() & (self.best >= 0.99 * before)
        self.waited = torch.where(idle, self.waited + 1, 0)
        self.active = self.active & ~(self.raised & self.lowered & (self.waited >= self.stale))
        # Counts up through successes and down through failures.
        self.streak = torch.where(good, self.streak.clamp_min(0) + 1, self.streak.clamp_max(0) - 1)
        up, down = self.streak >= self.patience, self.streak <= -self.patience
        self.raised, self.lowered = self.raised | up, self.lowered | down
        self.cost = torch.where(up, self.cost * 2, torch.where(down, self.cost / 2**1.5, self.cost))
        self.streak = torch.where(up | down, 0, self.streak)
        return improved


def _squash(raw: Tensor) -> Tensor:
    return raw.tanh() / (2 + 1e-7) + 0.5
