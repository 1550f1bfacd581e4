"""For i-BAU: layers whose second derivatives cost no more than first ones.

Differentiated twice, torch's convolution computes a gradient by its weights whether it is wanted or
not, as a convolution with one kernel for each image, and its batch norm is taken apart into some
twenty element-wise passes. Here the gradient by a layer's input is an ordinary layer again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_by_weights = True


class SecondOrder(TorchFunctionMode):
    """Inside the block, convolutions and frozen batch norms are those of this file.

    All derivatives are torch's but for rounding, of any order. Other layers stay as they are.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        layer = {F.conv2d: _conv2d, F.batch_norm: _batch_norm}.get(func, func)
        result: Tensor = layer(*args, **(kwargs or {}))
        return result


@contextmanager
def by_inputs_only() -> Iterator[None]:
    """Inside the block, backward passes through these layers leave their parameters out.

    A function of torch.autograd is not told which of its gradients are wanted.
    """
    global _by_weights
    before, _by_weights = _by_weights, False
    try:
        yield
    finally:
        _by_weights = before


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or x.ndim != 4:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    # Autocast does not look inside a function of torch.autograd.
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        narrow = torch.get_autocast_dtype(kind)
        x, weight = x.to(narrow), weight.to(narrow)
        bias = None if bias is None else bias.to(narrow)
    y: Tensor = _Conv2d.apply(
        x, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups
    )
    return y


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y: Tensor = _FrozenBatchNorm.apply(x, running_mean, running_var, weight, bias, eps)
    return y


class _Conv2d(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding, dilation, groups
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            # Pixels at the edge that no stride has reached.
            rest = [
                (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
                % stride[i]
                for i in (0, 1)
            ]
            of_x = F.conv_transpose2d(g, weight, None, stride, padding, rest, groups, dilation)
        wanted = [False, *(_by_weights and need for need in ctx.needs_input_grad[1:3])]
        if any(wanted):
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                g,
                x,
                weight,
                [len(weight)],
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                wanted,
            )
        return of_x, of_weight, of_bias, None, None, None, None


class _FrozenBatchNorm(Function):
    """weight (x - mean) / sqrt(var + eps) + bias; mean and variance are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, var, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _FrozenBatchNorm.apply(g, torch.zeros_like(mean), var, weight, None, ctx.eps)
        wanted = [_by_weights and need for need in ctx.needs_input_grad[3:5]]
        if any(wanted):
            gradients = torch.ops.aten.native_batch_norm_backward(
                g, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
            of_weight, of_bias = (
                value if want else None for value, want in zip(gradients[1:], wanted, strict=True)
            )
        return of_x, None, None, of_weight, of_bias, None


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
