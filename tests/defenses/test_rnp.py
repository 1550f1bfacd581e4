"""RNP's three steps against plain descent and ascent written out."""

from __future__ import annotations

import copy

import pytest
import torch
from defense_cases import batch_norm_state, same
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.defenses.batch_norm import batch_norms, pruned
from sau_bench.defenses.rnp import RNP
from sau_bench.models.classifier import Classifier

STEP = Recipe(epochs=1, batch_size=100, lr=0.05, momentum=0.9, weight_decay=0.01, augment=False)


def test_unlearning_climbs_the_loss_of_a_copy(cnn: Classifier, digits: Images) -> None:
    state = {name: value.clone() for name, value in cnn.state_dict().items()}
    rnp = RNP(unlearning=STEP, clean_threshold=0.0)
    twin = copy.deepcopy(cnn).train()
    found = rnp.unlearned(cnn, digits)
    assert same(dict(cnn.state_dict()), state)
    (F.cross_entropy(twin(digits.floats()), digits.y)).backward()
    moved = dict(found.named_parameters())
    for name, p in twin.named_parameters():
        assert p.grad is not None
        # Up the loss, and decayed as SGD does: p - lr (wd p - gradient).
        expected = p - 0.05 * (0.01 * p - p.grad)
        torch.testing.assert_close(moved[name], expected, rtol=1e-4, atol=1e-6)


def test_unlearning_ends_at_the_threshold_or_after_its_epochs(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(epochs=6, batch_size=50, lr=0.1)
    for threshold in (1.0, 0.0):
        with caplog.at_level("INFO"):
            RNP(unlearning=recipe, clean_threshold=threshold).unlearned(cnn, digits)
    notes = [m for m in caplog.messages if m.startswith("unlearned")]
    assert notes[0].endswith("epochs: 1")
    # Accuracy 0 is reached early or never, but never after a sixth epoch.
    assert int(notes[1].rsplit(" ", 1)[1]) in range(1, 7)


def test_unlearning_forgets_what_the_model_had_learned(cnn: Classifier, digits: Images) -> None:
    torch.manual_seed(0)
    train_model(cnn, digits, Recipe(epochs=20, batch_size=20, lr=0.05, augment=False))
    found = RNP(unlearning=Recipe(epochs=20, batch_size=50, augment=False)).unlearned(cnn, digits)
    accuracies = [
        float((model.train()(digits.floats()).argmax(1) == digits.y).float().mean())
        for model in (cnn, found)
    ]
    assert accuracies[0] > 0.9 and accuracies[1] < 0.3


def test_recovering_steps_along_the_masks_and_clips_them(cnn: Classifier, digits: Images) -> None:
    rnp = RNP(alpha=0.3, recovering=Recipe(**(vars(STEP) | {"lr": 0.5, "weight_decay": 0.0})))
    twin = copy.deepcopy(cnn).train()
    found = rnp.recovered(copy.deepcopy(cnn), digits)
    # At m = 1 the gradient of m is that of the weight, times the weight.
    F.cross_entropy(twin(digits.floats()), digits.y).backward()
    layers = batch_norms(twin).values()
    slope = torch.cat([bn.weight.detach() * bn.weight.grad for bn in layers])  # type: ignore[operator]
    torch.testing.assert_close(found, (1 - 0.5 * 0.3 * slope).clamp(0, 1), rtol=1e-4, atol=1e-6)
    assert 0 < int((found < 1).sum()) < len(found)


def test_recovering_moves_masks_alone(cnn: Classifier, digits: Images) -> None:
    weights = {name: p.detach().clone() for name, p in cnn.named_parameters()}
    RNP(recovering=Recipe(epochs=3, batch_size=50, lr=0.5, weight_decay=0.0)).recovered(cnn, digits)
    left = {
        n.replace("parametrizations.weight.original", "weight"): p
        for n, p in cnn.named_parameters()
    }
    masks = [name for name in left if name.endswith(".m")]
    assert len(masks) == 3
    assert all(torch.equal(left[name], weights[name]) for name in weights)


def test_candidates_are_the_victim_without_some_channels(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    m = torch.full((28,), 1.0)
    m[:4] = torch.tensor([0.0, 0.15, 0.7, 0.71])
    monkeypatch.setattr(RNP, "recovered", lambda *_: m)
    before = batch_norm_state(cnn)
    found = dict(RNP(unlearning=STEP)(cnn, digits))
    assert list(found) == pytest.approx([0.05 * k for k in range(19)])
    assert RNP.select == "fixed:0.7" and 0.7 in found
    x = digits.floats()
    for tau, model in found.items():
        assert same(batch_norm_state(model), before)
        expected = pruned(cnn, m <= tau + 1e-6).eval()
        with torch.no_grad():
            assert torch.equal(model.eval()(x), expected(x))
    counts = [int((m <= tau + 1e-6).sum()) for tau in (0.0, 0.15, 0.65, 0.7, 0.75)]
    assert counts == [1, 2, 2, 3, 4]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"alpha": 0.0}, "alpha is 0.0, accepted: above 0"),
        ({"clean_threshold": 1.5}, "clean_threshold is 1.5, accepted: at least 0"),
        ({"thresholds": ()}, "thresholds is empty"),
        ({"thresholds": (0.1, 0.1)}, "accepted: each one once"),
        ({"recovering": Recipe(batch_norm="frozen")}, "recovering: RNP needs batch_norm: train"),
    ],
)
def test_fields_are_checked(values, told) -> None:
    with pytest.raises(ValueError, match=told):
        RNP(**values)
