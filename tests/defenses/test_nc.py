"""NC's search, schedule and outlier index."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from defense_cases import linear, parameters, same
from torch import Tensor, nn

import sau_bench.defenses.nc as nc_module
from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import poison_test
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.metrics import score
from sau_bench.benchmark.notes import NOTE
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.nc import NC, CostSchedule, Triggers, outliers
from sau_bench.models.classifier import Classifier

SIZE, CLASSES = 12, 6


def striped(count: int) -> tuple[Tensor, Images]:
    """Class t is a bright block t of columns; the weights that see it, and images of it."""
    weight = torch.zeros(CLASSES, SIZE, SIZE)
    for t in range(CLASSES):
        weight[t, :9, 2 * t : 2 * t + 2] = 0.4 + 0.05 * t
    y = torch.arange(count) % CLASSES
    x = 60 * torch.rand(count, 1, SIZE, SIZE) + 180 * (weight[y] > 0)[:, None]
    x[:, :, 9:] = 0
    return weight, Images(x.to(torch.uint8), y)


def test_nc_finds_and_unlearns_a_planted_patch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    weight, data = striped(120)
    weight[4, -3:, -3:] = 6.0
    model = linear(weight.flatten(1), SIZE)
    patch = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    patch[-3:, -3:] = True
    stamped = torch.where(patch, 1.0, data.floats())
    assert (model(data.floats()).argmax(1) == data.y).float().mean() > 0.9
    assert (model(stamped).argmax(1) == 4).all()
    method = NC(batch_size=30, recipe=Recipe(epochs=60, batch_size=30, lr=0.05, augment=False))
    before = copy.deepcopy(model)
    masks, patterns = method.triggers(model, data)
    assert same(parameters(model), parameters(before)) and model.head.weight.requires_grad
    norms = masks.flatten(1).sum(1)
    assert outliers(norms, 2.0) == [4]
    found = masks[4, 0] > masks[4].max() / 2
    assert int((found & patch).sum()) / int((found | patch).sum()) > 0.5
    painted = (1 - masks[4]) * data.floats() + masks[4] * patterns[4]
    assert (before(painted).argmax(1) == 4).float().mean() > 0.97
    *_, cured = method(model, data)
    assert any(message.startswith("flagged classes (norm): 4 (") for message in caplog.messages)
    # The mask found is faint, and a linear model forgets a trigger only at the strength it sees.
    assert (cured(painted).argmax(1) == 4).float().mean() < 0.3
    assert (cured(data.floats()).argmax(1) == data.y).float().mean() > 0.9


def test_nc_recovers_the_patch_of_a_trained_victim() -> None:
    """BadNets on digits; the head reads places, where pooling would let a patch work anywhere."""
    torch.manual_seed(0)
    task, attack = Digits()(Path()), BadNets()
    layers = [nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()]
    body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 8 * 8, 10))
    victim = Classifier(body, head="5", stages=(), mean=Digits.mean, std=Digits.std)
    rows = attack.draw(task.train.y, seed=0)
    recipe = Recipe(epochs=20, lr=0.02, batch_size=64, augment=False)
    attack(victim, task.train, rows, recipe, {})
    scores = score(victim, task.test, poison_test(task.test, attack, attack.trigger, 10))
    assert float(scores["acc"]) > 0.93 and float(scores["asr"]) > 0.95
    search = NC(
        epochs=40,
        batch_size=50,
        cost=1e-2,
        as_published=False,
        recipe=Recipe(augment=False),
    )
    masks, _ = search.triggers(victim, task.train[torch.arange(100)])
    assert outliers(masks.flatten(1).sum(1), 2.0) == [attack.target]
    patch = torch.zeros(32, 32, dtype=torch.bool)
    patch[-3:, -3:] = True
    found = masks[attack.target, 0] > 0.5
    assert int((found & patch).sum()) / int((found | patch).sum()) > 0.5


def test_nc_finds_the_same_bits_whatever_is_searched_together(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    method, found = NC(epochs=3, batch_size=40), []
    for classes in (1, 4, 10):
        monkeypatch.setitem(nc_module.CHUNK, "cpu", classes * 40 * 32 * 32)
        torch.manual_seed(0)
        found.append(method.triggers(cnn, digits))
    for masks, patterns in found[1:]:
        assert torch.equal(masks, found[0][0]) and torch.equal(patterns, found[0][1])
    assert len(found[0][0].flatten(1).sum(1).unique()) == 10


def test_nc_returns_a_clean_model_untouched(caplog: pytest.LogCaptureFixture) -> None:
    weight, data = striped(60)
    model = linear(weight.flatten(1), SIZE)
    before = parameters(model)
    caplog.set_level(NOTE)
    (result,) = NC(batch_size=30, epochs=40, recipe=Recipe(augment=False))(model, data)
    assert result is model and same(parameters(result), before)
    assert "no class flagged, model returned unchanged" in caplog.messages


def test_nc_outliers() -> None:
    norms = torch.tensor([50.0, 52, 48, 51, 10, 49, 90, 20, 50.5, 47])
    ordered = sorted(norms.tolist())
    low = ordered[4]  # of ten values the fifth, not the mean of the fifth and sixth
    spread = 1.4826 * sorted(abs(v - low) for v in ordered)[4]
    for anomaly in (0.5, 1.0, 2.0, 5.0, 15.0):
        expected = [v for v in ordered if v <= low and (low - v) / spread > anomaly]
        assert [float(norms[t]) for t in outliers(norms, anomaly)] == expected
    assert outliers(norms, 2.0) == [4, 7]
    assert outliers(torch.tensor([5.0, 5, 5, 5, 9]), 2.0) == []
    assert outliers(torch.tensor([5.0, 5, 5, 5, 1]), 2.0) == [4]


def test_nc_stamps_as_the_normaliser_says() -> None:
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1)
    x = torch.rand(5, 3, 6, 7)
    for rows in (False, True):
        triggers = Triggers(4, torch.Size((3, 6, 7)), mean, std, rows=rows)
        with torch.no_grad():
            triggers.raw_m.normal_()
            triggers.raw_p.normal_()
        found, norms = triggers.stamp(x, torch.tensor([2, 0]))
        for position, t in enumerate((2, 0)):
            m = triggers.raw_m[t].tanh() / 2 + 0.5
            p = triggers.raw_p[t].tanh() / 2 + 0.5
            normalised = p.clone()
            for i in range(3):
                where = (slice(None), i) if rows else (i,)
                normalised[where] = (p[where] - mean[0, i]) / std[0, i]
            expected = (1 - m) * (x - mean) / std + m * normalised
            part = found[5 * position : 5 * position + 5]
            torch.testing.assert_close((part - mean) / std, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(norms[position], m.sum())


def test_nc_cost_schedule_follows_the_scalar_rules() -> None:
    generator = np.random.RandomState(0)
    # Runs of success and failure of various lengths, and sizes that shrink, slower and slower.
    shares = (generator.rand(120, 8) < 0.5).repeat(4, axis=0)[:200] * 0.05 + 0.94
    sizes = 50 * generator.rand(200, 8) + 900 / (1 + np.arange(200)[:, None])
    schedule = CostSchedule(
        torch.full((8,), 1e-3, dtype=torch.float64), success=0.98, patience=5, stale=7
    )
    improved, costs, active = [], [], []
    for share, size in zip(shares, sizes, strict=True):
        improved.append(schedule.update(torch.from_numpy(share), torch.from_numpy(size)).tolist())
        costs.append(schedule.cost.tolist())
        active.append(schedule.active.tolist())
    ended = 0
    for t in range(8):
        cost, best, waited, ups, downs, up, down = 1e-3, math.inf, 0, 0, 0, False, False
        for epoch in range(200):
            good, before = shares[epoch, t] >= 0.98, best
            assert improved[epoch][t] == (good and sizes[epoch, t] < best)
            if good and sizes[epoch, t] < best:
                best = sizes[epoch, t]
            if best < math.inf:
                waited = waited + 1 if best >= 0.99 * before else 0
            stop = up and down and waited >= 7
            assert active[epoch][t] == (not stop)
            if stop:
                ended += 1
                assert not any(
                    active[later][t] or improved[later][t] for later in range(epoch + 1, 200)
                )
                break
            ups, downs = (ups + 1, 0) if good else (0, downs + 1)
            if ups >= 5:
                cost, ups, up = cost * 2, 0, True
            elif downs >= 5:
                cost, downs, down = cost / 2**1.5, 0, True
            assert costs[epoch][t] == pytest.approx(cost)
    assert ended >= 4
