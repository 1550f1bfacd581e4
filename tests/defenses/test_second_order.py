"""Layers that are differentiated twice: against finite differences and torch's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import precision
from sau_bench.defenses.batch_norm import batch_norms
from sau_bench.defenses.i_bau import hypergradient
from sau_bench.defenses.second_order import SecondOrder, by_inputs_only
from sau_bench.models.classifier import Classifier


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"stride": (3, 2), "padding": (0, 1)},
        {"dilation": 2, "groups": 2},
        {"padding": "same"},
    ],
    ids=str,
)
def test_convolution_by_finite_differences(settings: dict[str, Any]) -> None:
    groups = settings.get("groups", 1)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with SecondOrder():
            return F.conv2d(x, weight, bias, **settings).tanh()

    inputs = double(2, 2, 6, 7), double(4, 2 // groups, 3, 3), double(4)
    with torch.no_grad():
        assert torch.equal(layer(*inputs), F.conv2d(*inputs, **settings).tanh())
    assert gradcheck(layer, inputs) and gradgradcheck(layer, inputs)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_by_finite_differences(training: bool) -> None:
    mean, var = torch.randn(3).double(), torch.rand(3).double() + 0.5

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        statistics = mean.clone(), var.clone()
        with SecondOrder():
            return F.batch_norm(x, *statistics, weight, bias, training=training).tanh()

    inputs = double(4, 3, 2, 2), double(3), double(3)
    assert gradcheck(layer, inputs) and gradgradcheck(layer, inputs)
    x = inputs[0]
    with SecondOrder():
        bare = F.batch_norm(x, mean, var)
    assert torch.equal(bare, F.batch_norm(x, mean, var))


def losses(model: Classifier, data: Images, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """A perturbation d, (1, C, H, W), and a function without arguments: the inner loss at d."""
    model.to(dtype)
    x = data.floats()[:20].to(dtype)
    d = (0.1 * torch.randn(1, *x.shape[1:], dtype=dtype)).requires_grad_()
    return d, lambda: d.square().sum() - F.cross_entropy(model(x + d), data.y[:20])


def test_hypergradient_is_that_of_torchs_own_layers(cnn: Classifier, digits: Images) -> None:
    d, inner = losses(cnn, digits, torch.float64)
    theta = list(cnn.parameters())
    found = []
    for layers in (nullcontext(), SecondOrder()):
        with layers:
            value = inner()
        outer = F.cross_entropy(cnn(digits.floats()[20:40].double() + d), digits.y[20:40])
        direct = torch.autograd.grad(outer, theta, retain_graph=True)
        total = hypergradient(value, outer, d, theta, eta=0.1, K=3)
        found.append([term - w for term, w in zip(total, direct, strict=True)])
    for plain, ours in zip(*found, strict=True):
        assert plain.norm() > 1e-8
        assert (ours - plain).norm() < 1e-8 * plain.norm()


def test_a_product_with_the_hessian_costs_two_forward_passes(
    cnn: Classifier, digits: Images
) -> None:
    d, inner = losses(cnn, digits, torch.float32)
    theta = list(cnn.parameters())
    counted = []
    for K in (1, 4):
        with FlopCounterMode(display=False) as counter:
            with SecondOrder():
                value = inner()
            hypergradient(value, d.square().sum(), d, theta, eta=0.1, K=K)
        counted.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inner()
    assert counted[1] - counted[0] == 3 * 2 * counter.get_total_flops()


def test_in_bf16_the_first_derivative_is_that_of_autocast(cnn: Classifier, digits: Images) -> None:
    d, inner = losses(cnn, digits, torch.float32)
    slopes = []
    for layers in (nullcontext(), SecondOrder()):
        with precision("bf16", d.device):
            with layers:
                value = inner()
            slopes.append((value, *torch.autograd.grad(value, d)))
    (value, slope), (ours, our_slope) = slopes
    assert torch.equal(ours, value)
    assert (our_slope - slope).norm() < 0.01 * slope.norm()


def test_parameters_are_left_out_inside_the_block_alone(cnn: Classifier, digits: Images) -> None:
    d, inner = losses(cnn, digits, torch.float32)
    weights = [layer.weight for layer in batch_norms(cnn).values()]
    with SecondOrder():
        value = inner()
    with by_inputs_only():
        inside = torch.autograd.grad(value, [d, *weights], retain_graph=True, allow_unused=True)
    outside = torch.autograd.grad(value, [d, *weights])
    assert torch.equal(inside[0], outside[0])
    assert inside[1:] == (None,) * 3 and all(g.any() for g in outside[1:])
