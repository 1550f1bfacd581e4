"""SAU's inner and outer losses, against independent computations."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from defense_cases import SAU_RECIPE, same, two_layers
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

import sau_bench.defenses.sau as sau_module
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import Batch, Recipe, train_model
from sau_bench.defenses.sau import SAU, jensen_shannon, shared_risk
from sau_bench.models.classifier import Classifier


def plain_objective(
    f: nn.Module, f0: nn.Module, x: Tensor, y: Tensor, e: Tensor, lambda_3: float = 0.01
) -> tuple[Tensor, list[bool]]:
    """lambda_3 L_adv + L_share image by image (equations 10, 11), and which images are shared."""
    total, shared = torch.zeros((), dtype=x.dtype), []
    for i in range(len(x)):
        clean, clean0 = (int(net(x[i : i + 1]).argmax()) for net in (f, f0))
        logits, logits0 = f((x + e)[i : i + 1])[0], f0((x + e)[i : i + 1])[0]
        fooled, fooled0 = int(logits.argmax()) != clean, int(logits0.argmax()) != clean0
        p, p0 = logits.softmax(0), logits0.softmax(0)
        if not fooled:
            total = total - lambda_3 * p[y[i]].log() / 2
        if not fooled0:
            total = total - lambda_3 * p0[y[i]].log() / 2
        shared.append(fooled and fooled0 and int(logits.argmax()) == int(logits0.argmax()))
        if not shared[-1]:
            m = (p + p0) / 2
            total = total - (p * (p / m).log()).sum() / 2 - (p0 * (p0 / m).log()).sum() / 2
    return total, shared


@pytest.fixture
def sau_case() -> tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor]:
    f, f0 = two_layers(1), two_layers(1)
    torch.manual_seed(3)
    for parameter in f.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, y = torch.rand(40, 1, 2, 3, dtype=torch.float64), torch.randint(3, (40,))
    return f, f0, x, y, f(x).argmax(1), f0(x).argmax(1)


def test_sau_inner_objective_and_gradient(
    sau_case: tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor],
) -> None:
    f, f0, x, y, clean, clean0 = sau_case
    e = (0.8 * torch.rand_like(x) - 0.4).requires_grad_()
    expected, shared = plain_objective(f, f0, x, y, e)
    value, found = SAU().inner_objective(f(x + e), f0(x + e), y, clean, clean0)
    assert 0 < sum(shared) < len(x)
    assert found.tolist() == shared
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(v, e)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert (ours[found] == 0).all() and (ours[~found] != 0).any()


def test_sau_examples_follow_the_plain_loop_and_stay_on_the_lattice(
    sau_case: tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor],
) -> None:
    # A larger weight than the default fools the small network within the five steps.
    lambda_3 = 1.0
    f, f0, x, y, clean, clean0 = sau_case
    e = torch.full_like(x, 0.2)
    first: dict[int, Tensor] = {}
    for _ in range(5):
        e.requires_grad_()
        value, shared = plain_objective(f, f0, x, y, e, lambda_3)
        (gradient,) = torch.autograd.grad(value, e)
        e = (e.detach() + 0.2 * gradient.sign()).clamp(-0.2, 0.2)
        first |= {i: e[i].clone() for i, hit in enumerate(shared) if hit and i not in first}
    method = SAU(lambda_3=lambda_3)
    found = method.shared_examples(f, f0, method.perturbation_sets()[0], x, y, clean, clean0)
    torch.testing.assert_close(found, e)
    assert 0 < len(first) < len(x)
    assert all(torch.equal(found[i], kept) for i, kept in first.items())
    lattice = torch.tensor([-0.2, 0.0, 0.2], dtype=x.dtype)
    assert (found[..., None] - lattice).abs().amin(-1).max() < 1e-12
    assert len(found.unique()) == 3


def test_jensen_shannon() -> None:
    p, q = torch.randn(2, 50, 7, dtype=torch.float64).mul(3).softmax(-1)
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(jensen_shannon(p, q), expected, rtol=1e-6)
    assert jensen_shannon(p, p).abs().max() < 1e-12


def test_shared_risk() -> None:
    logits = torch.randn(30, 4, dtype=torch.float64)
    bad, counted = torch.randint(4, (30,)), torch.rand(30) < 0.7
    logits[0, bad[0]], logits[1, bad[1]] = 40.0, -40.0  # certain to be bad, certain not to be
    counted[:2] = True
    logits.requires_grad_()
    total = 0.0
    for row, label, included in zip(logits.tolist(), bad.tolist(), counted.tolist(), strict=True):
        powers = [math.exp(v) for v in row]
        q = powers[label] / sum(powers)
        rest = sum(v for k, v in enumerate(powers) if k != label) / sum(powers)
        if included:
            total -= math.log(1e-6 + min(rest, 0.999)) / 2
            total -= math.log(1 + 1e-6 - max(q, 0.001)) / 2
    value = shared_risk(logits, bad, counted)
    assert value.item() == pytest.approx(total / 30, rel=1e-9)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[1] == 0).all() and (gradient[~counted] == 0).all()
    assert gradient[counted].abs().sum(1)[2:].min() > 0


def test_vanilla_unlearning_keeps_the_clean_term(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    sau = SAU(unlearning="vanilla", lambda_1=0.5, lambda_2=2.0)
    losses: list[Any] = []
    monkeypatch.setattr(sau_module, "fit", lambda *_, loss: losses.append(loss) or iter(()))
    list(sau(cnn.eval(), digits))
    rows = torch.arange(20)
    x, y = digits.floats(rows), digits.y[rows]
    clean = cnn(x).argmax(1)
    (ball,) = sau.perturbation_sets()
    e = sau.shared_examples(cnn, copy.deepcopy(cnn), ball, x, y, clean, clean)
    terms = [-cnn(z).log_softmax(1)[rows, y].mean() for z in (x, x + e)]
    value = losses[0](cnn, Batch(x, y, rows))
    assert value.item() == pytest.approx((0.5 * terms[0] + 2 * terms[1]).item(), rel=1e-5)


def test_sau_keeps_the_backdoored_model(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    before, kept = {k: v.clone() for k, v in cnn.state_dict().items()}, []
    original = SAU.shared_examples

    def spy(self: SAU, model: nn.Module, backdoored: nn.Module, *rest: Any) -> Tensor:
        kept.append(backdoored)
        return original(self, model, backdoored, *rest)

    monkeypatch.setattr(SAU, "shared_examples", spy)
    list(SAU(recipe=Recipe(**SAU_RECIPE))(cnn, digits))
    assert same(dict(kept[-1].state_dict()), before)
    assert not same(dict(cnn.state_dict()), before)


def test_sau_looks_up_predictions_on_clean_images_by_their_rows(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    train_model(cnn, digits, Recipe(epochs=3, batch_size=20, lr=0.05))
    with torch.no_grad():
        expected = cnn.eval()(digits.floats()).argmax(1)
    seen = 0
    original = SAU.shared_examples

    def spy(self: SAU, model: Any, backdoored: Any, within: Any, x: Tensor, *rest: Any) -> Tensor:
        nonlocal seen
        *_, clean0 = rest
        same_image = (x[:, None] == digits.floats()[None]).flatten(2).all(2)
        assert torch.equal(clean0, expected[same_image.int().argmax(1)])
        seen += len(x)
        return original(self, model, backdoored, within, x, *rest)

    monkeypatch.setattr(SAU, "shared_examples", spy)
    list(SAU(recipe=Recipe(**SAU_RECIPE))(cnn, digits))
    assert seen == len(digits) and len(expected.unique()) > 1
