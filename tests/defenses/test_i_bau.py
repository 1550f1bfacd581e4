"""i-BAU's hypergradient, against exact solutions, and its perturbation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.defenses.i_bau import IBAU, hypergradient
from sau_bench.models.classifier import Classifier


def test_hypergradient_of_a_quadratic_has_its_closed_form() -> None:
    torch.manual_seed(0)
    a = torch.randn(5, 3, dtype=torch.float64)
    c = torch.randn(5, dtype=torch.float64)
    theta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    d = (a @ theta).detach().requires_grad_()  # where (d - a theta)^2 / 2 is smallest
    inner = (d - a @ theta).square().sum() / 2
    outer = (d - c).square().sum() / 2 + theta.square().sum() / 2
    (found,) = hypergradient(inner, outer, d, [theta], eta=0.5, K=60)
    torch.testing.assert_close(found, a.T @ (a @ theta - c) + theta)


@pytest.mark.parametrize("K", [1, 5, 300])
def test_hypergradient_against_dense_algebra(K: int) -> None:
    eta, l2 = 0.1, 2.0
    x1, x2 = torch.randn(2, 6, 4, dtype=torch.float64)
    y1, y2 = torch.randint(3, (2, 6))
    carried = torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64)[:, None]
    weight = torch.randn(12, dtype=torch.float64)
    d = torch.randn(4, dtype=torch.float64)

    def inner(d: Tensor, weight: Tensor) -> Tensor:
        return l2 * d.square().sum() - F.cross_entropy((x1 + d) @ weight.view(4, 3), y1)

    def outer(d: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy((x2 + carried * d) @ weight.view(4, 3), y2)

    hessian = torch.func.hessian(inner)(d, weight)
    mixed = torch.func.jacrev(torch.func.grad(inner), argnums=1)(d, weight)  # (4, 12)
    u, w = torch.func.grad(outer, argnums=(0, 1))(d, weight)
    if K == 300:  # converged: the implicit function theorem
        implicit = -mixed.T @ torch.linalg.solve(hessian, u)
    else:
        step = torch.eye(4, dtype=torch.float64) - eta * hessian
        v = sum((torch.linalg.matrix_power(step, k) @ u for k in range(K)), torch.zeros_like(u))
        implicit = -eta * mixed.T @ v
    d.requires_grad_(), weight.requires_grad_()
    (found,) = hypergradient(inner(d, weight), outer(d, weight), d, [weight], eta=eta, K=K)
    assert implicit.norm() > 1e-3
    torch.testing.assert_close(found - w, implicit, rtol=1e-8, atol=1e-12)


def test_ibau_ascends_in_normalised_space_on_its_own_predictions(
    cnn: Classifier, digits: Images
) -> None:
    x = digits.floats()
    d = torch.zeros_like(x[:1], requires_grad=True)
    normalised = (x - cnn.mean) / cnn.std
    loss = F.cross_entropy(cnn.body(normalised + d), cnn(x).argmax(1))
    (gradient,) = torch.autograd.grad(loss, d)
    found = IBAU(augment=False).perturbation(cnn, cnn.std, digits)  # one batch, one step
    torch.testing.assert_close(found, 10 * gradient, rtol=1e-4, atol=1e-6)
    wrong = Images(digits.x, (digits.y + 1) % 10)
    torch.testing.assert_close(
        IBAU(augment=False).perturbation(cnn, cnn.std, wrong), found, rtol=1e-4, atol=1e-6
    )


def test_ibau_perturbs_a_portion_and_says_when_it_is_empty(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    carried = [IBAU().carried(torch.rand(256, 3, 2, 2)) for _ in range(2)]
    assert [int(part.sum()) for part in carried] == [2, 2]
    assert not torch.equal(*carried)
    list(IBAU(rounds=1)(cnn, digits[torch.arange(99)]))
    assert "no image of a batch carries the perturbation: plain fine-tuning" in caplog.messages


def test_ibau_in_bf16_goes_the_way_of_fp32(cnn: Classifier, digits: Images) -> None:
    start = torch.cat([p.detach().flatten() for p in cnn.parameters()])
    moves = []
    for precision in ("fp32", "bf16"):
        model = copy.deepcopy(cnn)
        torch.manual_seed(0)
        method = IBAU(precision=precision, rounds=1, batch_size=50, portion=0.1, augment=False)
        list(method(model, digits))
        moves.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - start)
    assert not torch.equal(*moves)
    assert F.cosine_similarity(moves[0], moves[1], dim=0) > 0.95
