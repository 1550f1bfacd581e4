"""Generators of the Input-Aware attack: masks and patterns for each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class DynamicTrigger(nn.Module):
    """Paints every image with the pattern and the mask that generators draw for it.

    mean, std: of the dataset, (1, C, 1, 1); generators see normalised images. twice: see
    `Generator`. Everything runs in fp32 whatever surrounds it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, twice: bool) -> None:
        super().__init__()
        channels = mean.shape[1]
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.masks = Generator(channels, 1, twice=twice).to(mean.device)
        self.patterns = Generator(channels, channels, twice=twice).to(mean.device)

    def mask(self, x: Tensor) -> Tensor:
        """How much of each pixel is painted over, (B, 1, H, W) in (0, 1), near either end."""
        with torch.autocast(x.device.type, enabled=False):
            return threshold(self.masks((x - self.mean) / self.std))

    def pattern(self, x: Tensor) -> Tensor:
        """What is painted, (B, C, H, W) in (0, 1)."""
        with torch.autocast(x.device.type, enabled=False):
            painted: Tensor = self.patterns((x - self.mean) / self.std)
            return painted

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Each image with its own trigger; x: float (B, C, H, W) in [0, 1]."""
        return self.paint(x, x)

    def paint(self, x: Tensor, z: Tensor) -> Tensor:
        """Each image x with the trigger of z; float (B, C, H, W) in [0, 1] both."""
        return x.lerp(self.pattern(z), self.mask(z))


class Generator(nn.Sequential):
    """An encoder and decoder without skips: normalised (B, C, H, W) -> (B, out, H, W) in (0, 1).

    H and W are multiples of 8. twice: a second tanh before the output, which then stays in
    (0.119, 0.881), as in the code behind the published numbers.
    """

    def __init__(self, channels: int, out: int, *, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        for width in (32, 64, 128):
            self.extend([*_block(channels, width), *_block(width, width), nn.MaxPool2d(2)])
            channels = width
        self.extend(_block(channels, channels))
        for width in (64, 32, out):
            self.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.extend([*_block(channels, channels), *_block(channels, width)])
            channels = width
        # The last block ends with its batch norm.
        self.pop(-1)

    def forward(self, x: Tensor) -> Tensor:
        raw: Tensor = super().forward(x)
        return _squash(raw.tanh() if self.twice else raw)


def threshold(mask: Tensor) -> Tensor:
    """A mask pushed towards 0 and 1, softly around one half."""
    return _squash(20 * mask - 10)


class AccumulatingAdam(torch.optim.Adam):
    """Adam on the running sum of all gradients so far, which is thereby part of its state."""

    def state_dict(self) -> dict[str, Any]:
        sums = [p.grad for group in self.param_groups for p in group["params"]]
        return {"adam": super().state_dict(), "sums": sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict["adam"])
        parameters = (p for group in self.param_groups for p in group["params"])
        for parameter, total in zip(parameters, state_dict["sums"], strict=True):
            parameter.grad = None if total is None else total.to(parameter.device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is cleared between steps."""


def _squash(raw: Tensor) -> Tensor:
    return raw.tanh() / (2 + 1e-7) + 0.5


def _block(channels: int, out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out, 3, padding=1),
        nn.BatchNorm2d(out, momentum=0.05),
        nn.ReLU(),
    ]
