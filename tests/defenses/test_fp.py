"""FP's pruning, against a plain loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg19

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.notes import NOTE
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.fp import FP
from sau_bench.models.classifier import Classifier


def headed(body: nn.Module, head: str, classifier: str | None = None) -> Classifier:
    """A classifier in evaluation mode, without normalisation."""
    model = Classifier(
        body, head=head, stages=(), mean=[0.0] * 3, std=[1.0] * 3, classifier=classifier
    )
    return model.eval()


def test_fp_prunes_the_least_active_features() -> None:
    # Feature k alone decides class k: pruning k loses class k, so each step costs 1/10 of ACC.
    head, features, y = nn.Linear(10, 10, bias=False), torch.eye(10), torch.arange(10)
    head.weight.data = torch.eye(10)
    model = headed(nn.Sequential(head), "0")
    activity = torch.tensor([9.0, -3.0, 5.0, 7.0, -8.0, 0.0, 1.0, 2.0, 4.0, 3.0])

    def removed(**fields: Any) -> list[int]:
        mask = FP(step=0.1, **fields).mask(model, activity, features, y)
        return (mask == 0).nonzero()[:, 0].tolist()

    # A dead class 0 stays right, since argmax of zeros is 0; classes 4, 1, 5, 6 go in this order.
    assert removed(tolerance=0.35, as_published=False) == [1, 4, 5]
    assert removed(tolerance=0.35) == [1, 4, 5, 6]
    assert removed(tolerance=0.25) == [1, 4, 5]
    assert removed(tolerance=0.3) == [1, 4, 5]  # reaching the tolerance violates it
    # Nothing violates: the last mask of the sweep.
    assert (
        len(removed(tolerance=0.999)) == 8
        and len(removed(tolerance=0.999, as_published=False)) == 9
    )


def test_fp_counts_one_feature_less_in_every_step() -> None:
    head, y = nn.Linear(512, 2), torch.zeros(4, dtype=torch.int64)
    head.bias.data = torch.tensor([1e6, 0.0])  # no mask changes the accuracy
    model = headed(nn.Sequential(head), "0")
    mask = FP().mask(model, torch.rand(512), torch.rand(4, 512), y)
    assert int((mask == 0).sum()) == 509  # n = 0, 6, ..., 510
    mask = FP(as_published=False).mask(model, torch.rand(512), torch.rand(4, 512), y)
    assert int((mask == 0).sum()) == 510


def test_fp_mask_outlives_fine_tuning(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        activity = cnn.features(digits.floats(), "penultimate")["penultimate"].mean(0)
    recipe = Recipe(epochs=2, batch_size=50, augment=False)
    caplog.set_level(NOTE)
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


def test_fp_measures_accuracy_through_all_layers_of_the_classifier() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    model = headed(nn.Sequential(nn.Flatten(), layers), "1.3", "1")
    features, activity = torch.randn(200, 12), torch.randn(12)
    y = model.body(features).argmax(1)

    def accuracy(mask: Tensor) -> float:
        hidden = F.linear(features * mask, layers[0].weight, layers[0].bias).relu()
        return (F.linear(hidden, layers[3].weight, layers[3].bias).argmax(1) == y).float().mean()

    order = activity.argsort()
    masks = [torch.ones(12).index_fill(0, order[:n], 0) for n in range(12)]
    within = [mask for mask in masks if 1 - accuracy(mask) < 0.3]
    assert 1 < len(within) < 12 and accuracy(masks[len(within) - 1]) > 0.7
    found = FP(step=0.01, tolerance=0.3, as_published=False).mask(model, activity, features, y)
    assert torch.equal(found, masks[len(within) - 1])


def test_fp_prunes_the_25088_features_of_vgg19(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(NOTE)
    torch.manual_seed(0)
    body = vgg19(num_classes=4, init_weights=False)
    assert body.classifier[0].in_features == 25_088
    # Fewer hidden features, so that the test is fast.
    body.classifier[0], body.classifier[3] = nn.Linear(25_088, 64), nn.Linear(64, 16)
    body.classifier[6] = nn.Linear(16, 4)
    model = headed(body, "classifier.6", "classifier")
    assert model.first_linear is body.classifier[0] and model.head is body.classifier[6]
    x = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    data = Images(x, torch.arange(8) % 4)
    recipe = Recipe(epochs=2, batch_size=4, lr=0.001, augment=False)
    pruned, weights = [], []
    for round_ in FP(tolerance=0.5, step=0.25, recipe=recipe)(model, data):
        weight = round_.first_linear.weight.detach().clone()
        pruned.append((weight == 0).all(0))
        weights.append(weight)
    assert torch.equal(*pruned) and not torch.equal(*weights)
    count = int(pruned[0].sum())
    assert 0 < count < 25_088 and f"pruned {count} of 25088 features" in caplog.messages


def test_a_classifier_begins_with_a_linear_layer() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(12, 3)))
    with pytest.raises(ValueError, match="'1' begins with no linear layer"):
        headed(body, "1.1", "1")
