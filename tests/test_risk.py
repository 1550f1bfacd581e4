"""Adversarial risks against what is known of linear models."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from sau_bench.benchmark import risk
from sau_bench.benchmark.data import Images
from sau_bench.defenses.sau import SAU
from sau_bench.models.classifier import Classifier


def linear(weight: Tensor, bias: Tensor) -> Classifier:
    """Two classes, linear in the pixels of 1 x 3 x 3 images."""
    body = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(9, 2)))
    model = Classifier(body, head="head", stages=(), mean=[0.0], std=[1.0])
    model.head.load_state_dict({"weight": weight, "bias": bias})
    return model


@pytest.fixture
def data() -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (300, 1, 3, 3), generator=generator, dtype=torch.uint8)
    return Images(x, torch.randint(2, (300,), generator=generator))


def least_margins(model: Classifier, data: Images) -> Tensor:
    """The smallest z_y - z_other that a perturbation of the ball leaves, (N,)."""
    with torch.no_grad():
        z = model(data.floats())
    weight = model.head.weight.detach()
    margin = (z[:, 1] - z[:, 0]) * (2 * data.y - 1)
    return margin - risk.EPS * (weight[1] - weight[0]).abs().sum()


def test_the_adversarial_risk_of_a_linear_model_is_found_exactly(data: Images) -> None:
    torch.manual_seed(0)
    model, other = (linear(torch.randn(2, 9), torch.randn(2)) for _ in range(2))
    found = risk.risks(model, other, data)
    expected = float((least_margins(model, data) < 0).double().mean())
    assert 0.2 < expected < 0.98
    assert found["adv_risk"] == pytest.approx(expected, abs=1e-9)
    assert found["shared_risk"] <= found["shared_risk_joint"] <= found["adv_risk"]


def test_before_the_defense_every_adversarial_example_is_shared(data: Images) -> None:
    torch.manual_seed(0)
    model = linear(torch.randn(2, 9), torch.randn(2))
    assert len(set(risk.risks(model, model, data).values())) == 1


def test_examples_are_shared_where_one_perturbation_fools_both(data: Images) -> None:
    # The models look at different pixels, so that one perturbation does the worst to each.
    torch.manual_seed(0)
    weights = torch.randn(2, 2, 9)
    weights[0, :, 5:] = 0
    weights[1, :, :5] = 0
    # Of an image of grey pixels, both are undecided.
    model, other = (linear(w, -w.sum(1) / 2) for w in weights)
    both = (least_margins(model, data) < 0) & (least_margins(other, data) < 0)
    found = risk.risks(model, other, data)
    assert 0.2 < both.double().mean() < 0.98
    assert found["shared_risk_joint"] == pytest.approx(float(both.double().mean()), abs=1e-9)


def test_the_search_of_sau_climbs_its_objective() -> None:
    torch.manual_seed(0)
    logits, logits0 = torch.randn(2, 6, 4) / 10
    y = torch.arange(6) % 4
    # No image fooled and none shared: nothing is masked in SAU's own objective.
    clean, clean0 = logits.argmax(1), logits0.argmax(1)
    expected, _ = SAU().inner_objective(logits, logits0, y, clean, clean0)
    torch.testing.assert_close(risk.as_sau(logits, logits0, y).sum(), expected)


def test_risks_draw_no_number_and_leave_the_models_as_they_are(data: Images) -> None:
    torch.manual_seed(0)
    model, other = (linear(torch.randn(2, 9), torch.randn(2)) for _ in range(2))
    before = torch.get_rng_state(), model.head.weight.detach().clone()
    risk.risks(model, other, data)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(model.head.weight, before[1]) and model.head.weight.grad is None
