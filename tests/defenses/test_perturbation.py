"""Perturbation sets and the plain inner maximisation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from defense_cases import two_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sau_bench.defenses.perturbation import Flow, NormBall, adversarial


@settings(deadline=None, max_examples=60)
@given(
    norm=st.sampled_from(["linf", "l2", "l1"]),
    bound=st.floats(1e-3, 600),
    scale=st.floats(1e-4, 1e3),
    seed=st.integers(0, 2**16),
)
def test_projection_onto_norm_balls(norm: Any, bound: float, scale: float, seed: int) -> None:
    ball = NormBall(norm=norm, bound=bound, step=0.1, start="random")
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    torch.manual_seed(seed)
    e = torch.randn(5, 3, 4, 4, dtype=torch.float64) * scale
    size = torch.linalg.vector_norm(e.flatten(1), order, dim=1)
    found = ball.project(e)
    reached = torch.linalg.vector_norm(found.flatten(1), order, dim=1)
    assert (reached <= bound * (1 + 1e-9)).all()
    assert torch.equal(found[size <= bound], e[size <= bound])
    torch.testing.assert_close(reached[size > bound], torch.full_like(reached, bound)[size > bound])
    assert (found * e >= 0).all()
    assert (
        torch.linalg.vector_norm(ball.initial(e).flatten(1), order, dim=1) <= bound * 1.001
    ).all()


def test_flow_stays_bounded_and_zero_flow_is_the_identity() -> None:
    flow = Flow(bound=0.05, step=0.025, start="random")
    x = torch.rand(2, 3, 8, 8)
    e = flow.initial(x)
    assert e.abs().max() <= 0.05
    assert flow.ascend(e, torch.randn_like(e)).abs().max() <= 0.05
    torch.testing.assert_close(flow.apply(x, torch.zeros_like(e)), x)


@pytest.mark.parametrize("start", ["max", "min", "zero"])
def test_adversarial_perturbations_follow_the_plain_loop(start: Any) -> None:
    net = two_layers(5)
    x, y = torch.rand(9, 1, 2, 3, dtype=torch.float64), torch.randint(3, (9,))
    ball = NormBall(norm="linf", bound=0.3, step=0.07, start=start)
    found = adversarial(net, ball, x, y, 4)
    for i in range(len(x)):
        e = torch.full_like(x[:1], {"max": 0.3, "min": -0.3, "zero": 0.0}[start])
        for _ in range(4):
            slope = torch.func.grad(
                lambda e, i=i: F.cross_entropy(net(x[i : i + 1] + e), y[i : i + 1])
            )(e)
            e = (e + 0.07 * slope.sign()).clamp(-0.3, 0.3)
        torch.testing.assert_close(found[i : i + 1], e)
    assert not found.requires_grad
