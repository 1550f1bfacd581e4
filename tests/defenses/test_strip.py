"""STRIP's entropies against a plain loop, its threshold, and what it rejects."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from defense_cases import noise
from scipy.stats import norm
from torch import Tensor, nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.defenses.base import NotApplicable
from sau_bench.defenses.strip import STRIP, Filtered
from sau_bench.models.classifier import Classifier


class Triggered(nn.Module):
    """Sure of class 0 where the last pixel is white or more, else as sure as `net` is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        white = x[:, 0, -1, -1] >= 1
        sure = torch.full((len(x), 10), -20.0).index_fill(1, torch.tensor([0]), 20.0)
        logits: Tensor = torch.where(white[:, None], sure, self.net(x))
        return logits


def run(model: nn.Module, data: Images, **fields: float) -> Filtered:
    torch.manual_seed(0)
    (filtered,) = STRIP(**fields)(model, data)  # type: ignore[arg-type]
    assert isinstance(filtered, Filtered)
    return filtered


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_entropy_is_the_mean_over_superimposed_images(cnn: Classifier, weight: float) -> None:
    overlays, x = noise(3, 3, 32, 32).floats(), noise(5, 3, 32, 32).floats()
    found = Filtered(cnn, overlays, weight).entropy(x)
    for image, entropy in zip(x, found, strict=True):
        with torch.no_grad():
            logits = cnn(torch.stack([weight * image + weight * o for o in overlays]))
        p = np.exp(logits.double().numpy())
        p /= p.sum(1, keepdims=True)
        assert float(entropy) == pytest.approx(-(p * np.log2(p)).sum(1).mean(), rel=1e-4)


def test_the_threshold_is_a_quantile_of_a_normal_distribution(
    cnn: Classifier, digits: Images
) -> None:
    filtered = run(cnn, digits, overlays=20, samples=60, false_rejection=0.05)
    torch.manual_seed(0)
    order = torch.randperm(100)
    assert torch.equal(filtered.overlays, digits.floats(order[:20]))
    entropies = filtered.entropy(digits.floats(order[20:80])).double().numpy()
    expected = norm.ppf(0.05, entropies.mean(), entropies.std(ddof=1))
    assert filtered.threshold == pytest.approx(expected, rel=1e-4)


def test_images_whose_prediction_survives_are_rejected_and_few_others(digits: Images) -> None:
    data = Digits()(Path())
    torch.manual_seed(0)
    # Logits that no overlay saturates.
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with torch.no_grad():
        net[1].weight *= 3
    filtered = run(Triggered(net), data.train, overlays=10, samples=300, false_rejection=0.1)
    clean = data.test.floats()
    stamped = clean.clone()
    stamped[:, :, -1, -1] = 1
    with torch.no_grad():
        before, after = filtered(clean), filtered(stamped)
    assert before.shape == (len(clean), 11)
    assert (after.argmax(1) == 10).all()
    assert 0 < float((before.argmax(1) == 10).float().mean()) < 0.25
    kept = before.argmax(1) != 10
    with torch.no_grad():
        assert torch.equal(before[kept].argmax(1), filtered.model(clean).argmax(1)[kept])


def test_an_answer_does_not_depend_on_the_other_images(cnn: Classifier, digits: Images) -> None:
    filtered = run(cnn, digits, overlays=4, samples=50, false_rejection=0.5)
    x = digits.floats(slice(12))
    with torch.no_grad():
        together = filtered(x).argmax(1)
        assert torch.equal(together, torch.cat([filtered(part).argmax(1) for part in x.split(1)]))
        assert torch.equal(together, filtered(x).argmax(1))
    assert 0 < int((together == 10).sum()) < 12


def test_with_few_images_half_of_them_are_overlays(cnn: Classifier, digits: Images) -> None:
    few = digits[torch.arange(9)]
    assert len(run(cnn, few).overlays) == 4
    assert math.isfinite(run(cnn, few).threshold)
    with pytest.raises(NotApplicable, match="at least 4 clean images, there are 3"):
        run(cnn, digits[torch.arange(3)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"false_rejection": 0.0}, "false_rejection is 0.0, accepted: above 0 and below 1"),
        ({"overlays": 0}, "overlays is 0, accepted: at least 1"),
        ({"samples": 1}, "samples is 1, accepted: at least 2"),
        ({"weight": 1.5}, "weight is 1.5, accepted: above 0 and at most 1"),
    ],
)
def test_fields_are_checked(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STRIP(**fields)  # type: ignore[arg-type]
