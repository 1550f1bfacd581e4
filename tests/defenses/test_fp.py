"""FP's pruning, against a plain loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from benchmark.data import Images
from benchmark.train import Recipe
from defenses.fp import FP
from models.classifier import Classifier


def test_fp_prunes_the_least_active_features() -> None:
    # Feature k alone decides class k: pruning k loses class k, so each step costs 1/10 of ACC.
    head, features, y = nn.Linear(10, 10, bias=False), torch.eye(10), torch.arange(10)
    head.weight.data = torch.eye(10)
    activity = torch.tensor([9.0, -3.0, 5.0, 7.0, -8.0, 0.0, 1.0, 2.0, 4.0, 3.0])

    def removed(**fields: Any) -> list[int]:
        mask = FP(step=0.1, **fields).mask(head, activity, features, y)
        return (mask == 0).nonzero()[:, 0].tolist()

    # A dead class 0 stays right, since argmax of zeros is 0; classes 4, 1, 5, 6 go in this order.
    assert removed(tolerance=0.35, stop="within") == [1, 4, 5]
    assert removed(tolerance=0.35) == [1, 4, 5, 6]
    assert removed(tolerance=0.25) == [1, 4, 5]
    assert removed(tolerance=0.3) == [1, 4, 5]  # reaching the tolerance violates it
    # Nothing violates: the last mask of the sweep.
    assert len(removed(tolerance=0.999)) == 8 and len(removed(tolerance=0.999, stop="within")) == 9


def test_fp_counts_one_feature_less_in_every_step() -> None:
    head, y = nn.Linear(512, 2), torch.zeros(4, dtype=torch.int64)
    head.bias.data = torch.tensor([1e6, 0.0])  # no mask changes the accuracy
    mask = FP().mask(head, torch.rand(512), torch.rand(4, 512), y)
    assert int((mask == 0).sum()) == 509  # n = 0, 6, ..., 510
    assert (
        int((FP(stop="within").mask(head, torch.rand(512), torch.rand(4, 512), y) == 0).sum())
        == 510
    )


def test_fp_mask_outlives_fine_tuning(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        activity = cnn.features(digits.floats(), "penultimate")["penultimate"].mean(0)
    recipe = Recipe(epochs=2, batch_size=50, augment=False)
    *_, model = FP(tolerance=0.9, recipe=recipe)(cnn, digits)
    result = copy.deepcopy(model)
    columns = (result.head.weight == 0).all(0)
    assert 0 < int(columns.sum()) < len(columns)
    assert activity[columns].max() < activity[~columns].min()
    assert f"pruned {int(columns.sum())} of 16 features" in caplog.messages
    x = torch.randn(3, 16)
    changed = torch.where(columns, torch.randn(3, 16), x)
    assert not torch.equal(x, changed)
    assert torch.equal(result.head(x), result.head(changed))
    assert (result.head(x) != result.head(x * 2)).any()
