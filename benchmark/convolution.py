"""Convolutions of small maps as matrix products: faster in bf16 on CPUs with AMX.

A tile of AMX holds 16 rows. The speed of the convolutions in torch's library falls with the width
of a map below that, as if a tile held pixels of one row only; of maps of 4 x 4, the last stage of a
residual network on CIFAR-10, a product over the pixels of all images is several times as fast.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SMALL, CHANNELS = 16, 256
"""Pixels of the largest map whose convolution becomes a product, a tile's rows, and channels of the
narrowest input. With 512 channels a 3 x 3 convolution and its backward pass take two fifths of the
time, with 128 nothing is gained (docs/performance.md)."""

Pair = tuple[int, int]


@lru_cache(maxsize=1)
def has_amx() -> bool:
    """Whether this CPU multiplies matrices of bf16 in tiles; an old torch does not say."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def small_as_products(wanted: bool) -> AbstractContextManager[object]:
    """A block of `SmallAsProducts`, if that is wanted and faster on this CPU."""
    return SmallAsProducts() if wanted and has_amx() else nullcontext()


class SmallAsProducts(TorchFunctionMode):
    """Inside the block, convolutions to small maps are products of matrices.

    All derivatives are torch's but for rounding, of any order. Other layers stay as they are.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        layer = _conv2d if func is F.conv2d else func
        result: Tensor = layer(*args, **(kwargs or {}))
        return result


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    plain = groups == 1 and pair(dilation) == (1, 1) and x.ndim == 4
    if plain and not isinstance(padding, str) and x.shape[1] >= CHANNELS:
        height, width = weight.shape[2:]
        windows = Windows(x.shape, (height, width), pair(stride), pair(padding))
        if windows.rows * windows.columns <= SMALL:
            return product(x, weight, bias, windows)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


@dataclass(frozen=True)
class Windows:
    """The parts of images that a kernel lies on. shape: of the images, (B, C, H, W)."""

    shape: torch.Size
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def rows(self) -> int:
        return self._positions(0)

    @property
    def columns(self) -> int:
        return self._positions(1)

    def _positions(self, axis: int) -> int:
        free = self.shape[2 + axis] + 2 * self.padding[axis] - self.kernel[axis]
        return free // self.stride[axis] + 1

    def of(self, padded: Tensor) -> Tensor:
        """A view of padded images (B, H + 2 p, W + 2 q, C), (B, rows, columns, k, l, C)."""
        (batch, channels, _, _), (down, right) = self.shape, self.stride
        image, row, pixel, channel = padded.stride()
        return padded.as_strided(
            (batch, self.rows, self.columns, *self.kernel, channels),
            (image, down * row, right * pixel, row, pixel, channel),
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows) -> Tensor:
    """The convolution of images x with weight (D, C, k, l); (B, D, rows, columns)."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    y = F.linear(_Unfold.apply(x, windows), weight.permute(0, 2, 3, 1).flatten(1), bias)
    return y.unflatten(0, (len(x), windows.rows, windows.columns)).permute(0, 3, 1, 2)


class _Unfold(Function):
    """Images (B, C, H, W) to what the kernel lies on, (B * rows * columns, k * l * C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        p, q = windows.padding
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, q, q, p, p))
        return windows.of(padded).flatten(0, 2).flatten(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Fold.apply(g, ctx.windows), None


class _Fold(Function):
    """The transpose of `_Unfold`; what overlaps is added in fp32 where g is bf16."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        (batch, channels, height, width), (p, q) = windows.shape, windows.padding
        size = batch, height + 2 * p, width + 2 * q, channels
        sums = g.new_zeros(size, dtype=torch.promote_types(g.dtype, torch.float32))
        under = windows.of(sums)
        parts = g.reshape(under.shape)
        for i, j in itertools.product(*map(range, windows.kernel)):
            under[:, :, :, i, j] += parts[:, :, :, i, j]
        return sums[:, p : p + height, q : q + width].to(g.dtype).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Unfold.apply(g, ctx.windows), None


def pair(value: int | Sequence[int]) -> Pair:
    """A stride, a padding or a dilation by axis."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
