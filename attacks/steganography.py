"""StegaStamp: hide bits in an image and read them back (Tancik et al. 2020, arXiv 1904.05343).

Note: both networks start from He's initialisation. From torch's default the bits' share of the
decoder's input shrinks with each layer: in a trial on CIFAR-10 (bf16, 64 images a step) about half
of them, which is chance, were read after 1,500 steps, and from this one 90 % after 1,300.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = 100


class Encoder(nn.Module):
    """A U-net that repaints an image with bits in it; 1,069,315 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Linear(BITS, 3 * 16 * 16)
        stages = (6, 32, 1), (32, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in stages)
        shapes = (256, 128, 256), (128, 64, 128), (64, 32, 64), (32, 32, 70)
        self.up = nn.ModuleList(nn.Conv2d(inside, out, 2) for inside, out, _ in shapes)
        self.merge = nn.ModuleList(nn.Conv2d(both, out, 3, 1, 1) for _, out, both in shapes)
        self.last = nn.Conv2d(32, 32, 3, 1, 1)
        self.image = nn.Conv2d(32, 3, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """The repainted images.

        x: float (B, 3, H, W) in [0, 1], H and W multiples of 16. bits: 0 and 1, float (B, 100).
        """
        planes = self.planes(bits).relu().view(-1, 3, 16, 16)
        given = torch.cat((F.interpolate(planes, size=x.shape[-2:]), x), 1)
        h, skips = given, []
        for conv in self.down:
            h = conv(h).relu()
            skips.append(h)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            # One row and column more, which the even kernel takes off again.
            h = up(F.pad(F.interpolate(h, scale_factor=2), (0, 1, 0, 1))).relu()
            joined = (skip, h) if skip is not skips[0] else (skip, h, given)
            h = merge(torch.cat(joined, 1)).relu()
        painted: Tensor = self.image(self.last(h).relu()).sigmoid()
        return painted


class Decoder(nn.Sequential):
    """Reads the bits: (B, 3, H, W) in [0, 1] -> logits (B, 100).

    size: H and W, a multiple of 32. 441,284 parameters at 32, 637,892 at 64.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 32:
            raise ValueError(f"size is {size}, accepted: a multiple of 32")
        widths, strides = (3, 32, 32, 64, 64, 64, 128, 128), (2, 1, 2, 1, 2, 2, 2)
        for i, stride in enumerate(strides):
            self.extend([nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.ReLU()])
        flat = 128 * (size // 32) ** 2
        self.extend([nn.Flatten(), nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, BITS)])
        self.apply(_initialise)


def _initialise(layer: nn.Module) -> None:
    """He et al. 2015, arXiv 1502.01852: a signal keeps its size through layers with ReLUs."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def bits_read(logits: Tensor, bits: Tensor) -> Tensor:
    """The share of bits that the decoder's logits get right, a scalar tensor."""
    return ((logits > 0) == (bits > 0.5)).float().mean()


def mse_weight(since: Tensor, hold: int, ramp: int) -> Tensor:
    """Weight of the image loss, `since` steps after bits were first read (negative: not yet).

    Zero for `hold` steps, so that bits come first, then rising to 10 over `ramp` steps.
    """
    return (10 * (since - hold) / ramp).clamp(0, 10)
