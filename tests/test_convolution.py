"""Convolutions as products: against torch's own, and against finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sau_bench.benchmark import convolution
from sau_bench.benchmark.convolution import SmallAsProducts
from sau_bench.benchmark.train import precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def any_width() -> Iterator[None]:
    """Few channels are enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "CHANNELS", 1)
        yield


class Convolutions(TorchDispatchMode):
    """Counts convolutions that torch's library computes, forward."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def computed(*arguments: Any, **options: Any) -> tuple[Tensor, int]:
    """The convolution inside the block, and how many torch computed for it."""
    with Convolutions() as counted, SmallAsProducts():
        y = F.conv2d(*arguments, **options)
    return y, counted.count


@settings(deadline=None)
@given(
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_values_and_gradients_are_torchs(
    channels: int, size: Any, kernel: Any, stride: Any, padding: Any, bias: bool, last: bool
) -> None:
    pads = (padding, padding) if isinstance(padding, int) else padding
    assume(all(size[i] + 2 * pads[i] >= kernel[i] for i in (0, 1)))
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, channels, *size).double().contiguous(memory_format=layout)
    weight = torch.randn(4, channels, *kernel).double().contiguous(memory_format=layout)
    inputs = [x, weight, torch.randn(4).double()][: 2 + bias]
    for tensor in inputs:
        tensor.requires_grad_()
    expected = F.conv2d(*inputs, stride=stride, padding=padding)
    y, by_torch = computed(*inputs, stride=stride, padding=padding)
    assert by_torch == (0 if expected[0, 0].numel() <= 16 else 1)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": 1}, {"stride": (3, 2)}], ids=str
)
def test_derivatives_by_finite_differences(options: dict[str, Any]) -> None:
    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, by_torch = computed(x, weight, bias, **options)
        assert not by_torch
        return y.tanh()

    shapes = (2, 2, 4, 4), (3, 2, 3, 3), (3,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(layer, inputs) and gradgradcheck(layer, inputs)


@pytest.mark.parametrize(
    "options",
    [{"groups": 2}, {"dilation": 2, "padding": 2}, {"padding": "same"}],
    ids=str,
)
def test_other_convolutions_are_left_to_torch(options: dict[str, Any]) -> None:
    x, weight = torch.randn(2, 2, 4, 4), torch.randn(4, 2 // options.get("groups", 1), 3, 3)
    y, by_torch = computed(x, weight, **options)
    assert by_torch == 1 and torch.equal(y, F.conv2d(x, weight, **options))


def test_bf16_is_as_exact_as_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products accumulate in fp32 and round once, and so do the sums over a pixel's windows."""
    x, weight = torch.randn(8, 64, 4, 4), torch.randn(32, 64, 3, 3) / 24
    g = torch.randn(8, 32, 4, 4)

    def gradients(amx: bool) -> list[Tensor]:
        monkeypatch.setattr(convolution, "has_amx", lambda: amx)
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        with Convolutions() as counted, precision("bf16", CPU):
            y = F.conv2d(*inputs, padding=1)
        assert counted.count == (0 if amx else 1) and y.dtype == torch.bfloat16
        return [y.float(), *torch.autograd.grad(y, inputs, g.to(y.dtype))]

    inputs = [x.double().requires_grad_(), weight.double().requires_grad_()]
    y = F.conv2d(*inputs, padding=1)
    exact = [y, *torch.autograd.grad(y, inputs, g.double())]
    for ours, theirs, value in zip(gradients(True), gradients(False), exact, strict=True):
        error, usual = ((t.double() - value).norm() / value.norm() for t in (ours, theirs))
        assert error < 2 * usual < 0.02


def test_narrow_layers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "CHANNELS", 256)
    for channels in (255, 256):
        x, weight = torch.randn(1, channels, 4, 4), torch.randn(2, channels, 3, 3)
        assert computed(x, weight)[1] == (channels < 256)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_only_bf16_on_a_cpu_with_tiles(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    x, weight = torch.randn(1, 4, 4, 4), torch.randn(4, 4, 3, 3)
    for amx in (False, True):
        monkeypatch.setattr(convolution, "has_amx", lambda amx=amx: amx)
        with Convolutions() as counted, precision(kind, CPU):
            F.conv2d(x, weight)
        assert counted.count == (0 if amx and kind == "bf16" else 1)
