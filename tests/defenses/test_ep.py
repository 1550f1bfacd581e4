"""EP's entropies, against scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from defense_cases import linear, noise
from scipy.stats import entropy as scipy_entropy

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.notes import NOTE
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.base import NotApplicable
from sau_bench.defenses.batch_norm import batch_norms
from sau_bench.defenses.ep import EP, channel_entropy, channel_peaks
from sau_bench.models.classifier import Classifier


def numpy_entropy(z: Any, h: float) -> list[float]:
    spread = z.std(1, ddof=1, keepdims=True)
    z = np.where(spread < 1e-8, 0.0, (z - z.mean(1, keepdims=True)) / np.maximum(spread, 1e-8))
    low, bins = z.min(), math.floor((z.max() - z.min()) / h)
    result = []
    for row in z:
        q = [((low + n * h < row) & (row < low + (n + 1) * h)).mean() for n in range(bins)]
        result.append(-sum(value * math.log(value) for value in q if value))
    return result


@pytest.mark.parametrize("h", [0.1, 0.01, 0.37])
def test_ep_entropy(h: float) -> None:
    z = torch.randn(12, 64, dtype=torch.float64)
    z[3] = 2.5  # constant
    z[4] = torch.where(torch.arange(64) < 6, 30.0, z[4])  # bimodal
    found = channel_entropy(z, h)
    np.testing.assert_allclose(found, numpy_entropy(z.numpy(), h), atol=1e-12)
    assert found[3] == 0 and int(found[torch.arange(12) != 3].argmin()) == 3


def test_ep_leaves_out_the_edges_and_the_rest() -> None:
    # Standardised, three values on a grid: the minimum lies on an edge, the maximum past the bins.
    z = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    assert float(channel_entropy(z, 0.9)) == pytest.approx(math.log(3) / 3)
    whole = scipy_entropy(np.full(3, 1 / 3))
    assert float(channel_entropy(z, 0.9)) < whole


def test_ep_prunes_low_entropy_channels(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    method = EP(u=0.8, samples=50, augment=False)
    torch.manual_seed(2)
    rows = torch.randperm(100)[:50]
    peaks = channel_peaks(cnn, digits.floats(rows))
    convolved = cnn.features(digits.floats(rows), "stage1.0")["stage1.0"]
    torch.testing.assert_close(peaks["body.stage1.1"], convolved.amax((2, 3)).T)
    expected = {}
    for name, z in peaks.items():
        h = np.array(numpy_entropy(z.numpy().astype(np.float32), 0.1))
        expected[name] = (h < h.mean() - 0.8 * h.std(ddof=1)).tolist()
    torch.manual_seed(2)
    caplog.set_level(NOTE)
    (result,) = method(cnn, digits)
    layers = batch_norms(result)
    assert {name: (bn.weight == 0).tolist() for name, bn in layers.items()} == expected
    assert {name: (bn.bias == 0).tolist() for name, bn in layers.items()} == expected
    count = sum(map(sum, expected.values()))
    assert 0 < count < 28 and f"pruned {count} of 28 channels" in caplog.messages


def test_ep_leaves_biases_if_not_as_published(cnn: Classifier, digits: Images) -> None:
    before = torch.cat([bn.bias for bn in batch_norms(cnn).values()]).detach().clone()
    (result,) = EP(u=0.8, samples=50, as_published=False)(cnn, digits)
    layers = batch_norms(result).values()
    assert any((bn.weight == 0).any() for bn in layers)
    assert torch.equal(torch.cat([bn.bias for bn in layers]), before)


def test_ep_that_prunes_nothing_changes_nothing(cnn: Classifier, digits: Images) -> None:
    before = cnn(digits.floats())
    (result,) = EP(u=100.0)(cnn, digits)
    assert torch.equal(result(digits.floats()), before)


@pytest.mark.parametrize("defense", [EP(), ANP()])
def test_pruning_needs_batch_norm(defense: Any) -> None:
    with pytest.raises(NotApplicable, match="needs batch norm"):
        list(defense(linear(torch.zeros(3, 36), 6), noise(20, 1, 6, 6, classes=3)))
