"""NAD's attention maps and its schedule."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from defense_cases import same
from torch import Tensor, nn
from torch.nn import functional as F

import sau_bench.defenses.nad as nad_module
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.notes import NOTE
from sau_bench.benchmark.train import Batch, Recipe
from sau_bench.defenses.base import NotApplicable
from sau_bench.defenses.batch_norm import batch_norms
from sau_bench.defenses.nad import NAD, attention
from sau_bench.models.classifier import Classifier


def test_attention_and_distillation_loss(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    def numpy_attention(features: Tensor) -> Any:
        energy = (np.abs(features.detach().numpy().astype(np.float64)) ** 2).sum(1)
        flat = energy.reshape(len(energy), -1)
        return flat / (np.sqrt((flat**2).sum(1, keepdims=True)) + 1e-6)

    features = torch.randn(4, 3, 5, 6)
    np.testing.assert_allclose(attention(features), numpy_attention(features), rtol=1e-5)

    found: list[tuple[float, float]] = []
    trained: list[Classifier] = []

    def fit(model: Classifier, data: Images, recipe: Recipe, *, loss: Any = None) -> Iterator[Any]:
        trained.append(model)
        if loss is None:  # the teacher: any other network will do
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        else:
            x, y = data.floats(), data.y
            ours, theirs = (m.eval().features(x, "stage2", "stage3") for m in (model, trained[0]))
            expected: float = F.cross_entropy(ours["logits"], y).item()
            for beta, stage in ((500, "stage2"), (1000, "stage3")):
                a, b = numpy_attention(ours[stage]), numpy_attention(theirs[stage])
                expected += beta * float(((a - b) ** 2).mean())
            found.append((loss(model, Batch(x, y, torch.arange(len(y)))).item(), expected))
        yield model

    monkeypatch.setattr(nad_module, "fit", fit)
    monkeypatch.setattr(nad_module, "train_model", lambda *arguments: list(fit(*arguments)))
    list(NAD()(cnn, digits))
    assert trained[1] is cnn and trained[0] is not cnn
    ((value, expected),) = found
    assert value == pytest.approx(expected, rel=1e-4)


def test_nad_freezes_the_teacher_and_repeats_batch_norm_updates(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    models: list[nn.Module] = []
    original: Any = vars(nad_module)["train_model"]

    def train_model(model: Any, *arguments: Any) -> None:
        models.append(model)
        original(model, *arguments)

    monkeypatch.setattr(nad_module, "train_model", train_model)
    recipe = Recipe(epochs=2, batch_size=50)
    rounds = NAD(teacher=Recipe(epochs=1, batch_size=50), recipe=recipe)(cnn, digits)
    next(rounds)
    teacher, before = models[0], copy.deepcopy(models[0].state_dict())
    momenta = [layer.momentum for layer in batch_norms(cnn).values()]
    assert momenta == pytest.approx([1 - 0.9**4, 1 - 0.9**4, 1 - 0.9**3])
    list(rounds)
    assert same(dict(teacher.state_dict()), dict(before))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert [layer.momentum for layer in batch_norms(cnn).values()] == [0.1] * 3


def test_repeated_momentum_equals_repeated_passes() -> None:
    once, often = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    once.momentum = 1 - 0.9**4
    x = torch.randn(5, 2, 3, 3)
    once(x)
    for _ in range(4):
        often(x)
    torch.testing.assert_close(once.running_mean, often.running_mean)
    torch.testing.assert_close(once.running_var, often.running_var)


def test_nad_needs_stages_and_feature_maps(cnn: Classifier, digits: Images) -> None:
    with pytest.raises(NotApplicable, match="needs 4 stages, the model has 3"):
        list(NAD(betas=(1.0,) * 4)(cnn, digits))
    with pytest.raises(NotApplicable, match="feature maps"):
        attention(torch.rand(2, 7, 5))


def test_nad_as_the_paper_has_three_stages_and_one_pass(cnn: Classifier, digits: Images) -> None:
    assert NAD().weights == (500, 1000) and NAD(as_published=False).weights == (500, 1000, 1000)
    assert NAD(betas=(7.0,), as_published=False).weights == (7,)
    recipe = Recipe(epochs=2, batch_size=50)
    rounds = NAD(teacher=Recipe(epochs=1, batch_size=50), recipe=recipe, as_published=False)
    next(iter(rounds(cnn, digits)))
    assert [layer.momentum for layer in batch_norms(cnn).values()] == [0.1] * 3


def test_nad_notes_maps_of_one_pixel(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(NOTE)
    short = {"teacher": Recipe(epochs=1, batch_size=50), "recipe": Recipe(epochs=1, batch_size=50)}
    list(NAD(**short)(cnn, digits))
    assert not [r for r in caplog.records if r.levelno == NOTE]
    cnn.body.stage3.append(nn.AdaptiveAvgPool2d(1))
    list(NAD(**short)(cnn, digits))
    (record,) = [r for r in caplog.records if r.levelno == NOTE]
    assert "stage3" in record.getMessage() and "stage2" not in record.getMessage()
    features = torch.rand(5, 3, 1, 1, requires_grad=True)
    assert torch.allclose(attention(features), torch.ones(5, 1), atol=1e-3)
