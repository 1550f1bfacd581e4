"""The plain implementations do what the product does: from the same batches the same model."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from measurements.plain import anp, at, i_bau, nc, sau, training
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.train import Recipe, fit, train_model
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.at import AT
from sau_bench.defenses.i_bau import IBAU
from sau_bench.defenses.nc import NC
from sau_bench.defenses.perturbation import UNLEARNING
from sau_bench.defenses.sau import SAU
from sau_bench.models.small_cnn import SmallCNN

SIZE = 64
# SGD, because Adam's first steps are signs of gradients, which rounding decides where they are 0.
TUNING = replace(UNLEARNING, epochs=3, batch_size=SIZE, optimizer="sgd", lr=0.005)


@pytest.fixture(scope="module")
def victim():
    """A network that has learnt something, and a batch of images."""
    torch.manual_seed(0)
    model, data = SmallCNN(width=8)(Digits()), Digits()(Path()).train
    # Noise, because rounding decides which of equal pixels pooling takes.
    noise = torch.randint(16, data.x.shape, dtype=torch.uint8)
    data = replace(data, x=data.x // 16 * 15 + noise)
    train_model(model, data, Recipe(epochs=1, lr=0.05, batch_size=32, augment=False))
    return model.eval(), data[torch.arange(SIZE)]


def sgd(model):
    return torch.optim.SGD(model.parameters(), TUNING.lr, momentum=TUNING.momentum)


def as_floats(data):
    return data.x.float() / 255


def last(models):
    return [*models][-1]


def assert_same(product, plain, before):
    expected, found = (nn.utils.parameters_to_vector(m.parameters()) for m in (product, plain))
    start = nn.utils.parameters_to_vector(before.parameters())
    moved = (expected - start).norm()
    assert moved > 1e-3
    assert (found - expected).norm() < 1e-3 * moved


def test_training(victim):
    model, data = victim
    recipe = Recipe(epochs=3, batch_size=SIZE, augment=False, schedule="constant")
    product, plain = copy.deepcopy(model), copy.deepcopy(model)
    last(fit(product, data, recipe))
    optimizer = training.plain_optimizer(plain)
    for _ in range(3):
        training.plain_step(plain, as_floats(data), data.y, optimizer)
    assert_same(product, plain, model)


def test_sau(victim):
    model, data = victim
    # Layers in fp64, because rounding decides the signs of small gradients.
    model = copy.deepcopy(model).double()
    product, plain = copy.deepcopy(model), copy.deepcopy(model)
    last(SAU(recipe=TUNING)(product, data))
    backdoored, optimizer = copy.deepcopy(model), sgd(plain)
    for _ in range(TUNING.epochs):
        sau.plain_step(plain, as_floats(data), data.y, backdoored, optimizer)
    assert_same(product, plain, model)


def test_at(victim):
    model, data = victim
    product, plain = copy.deepcopy(model), copy.deepcopy(model)
    last(AT(recipe=TUNING)(product, data))
    optimizer = sgd(plain)
    for _ in range(TUNING.epochs):
        at.plain_step(plain, as_floats(data), data.y, optimizer)
    assert_same(product, plain, model)


def test_nc(victim):
    model, data = victim
    searching = NC(epochs=4, batch_size=SIZE, success=0.01, cost=0.1, as_published=False)
    searching = replace(searching, recipe=replace(searching.recipe, augment=False))
    masks, patterns = searching.triggers(model, data)
    x, frozen = as_floats(data), copy.deepcopy(model)
    trigger = nc.PlainTrigger(x.shape[1:], x.device)
    optimizer = nc.plain_optimizer(trigger)
    target = int(model(trigger(x)).argmax(1).mode().values)
    steps = [
        nc.plain_step(frozen, x, data.y, target, trigger, optimizer, cost=0.1) for _ in range(4)
    ]
    shares, sizes = zip(*steps, strict=True)
    # So that the search keeps its last mask.
    assert min(shares) >= 0.01 and list(sizes) == sorted(sizes, reverse=True)
    assert patterns[target].std() > 0.01
    torch.testing.assert_close(trigger.mask(), masks[target, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(trigger.pattern(), patterns[target], rtol=0, atol=1e-3)


def test_i_bau(victim):
    model, data = victim
    product, plain = copy.deepcopy(model), copy.deepcopy(model)
    last(IBAU(rounds=1, batch_size=SIZE, portion=1.0, augment=False)(product, data))
    x, optimizer = as_floats(data), i_bau.plain_optimizer(plain)
    d = i_bau.plain_ascent(plain, x, torch.zeros_like(x[:1]), scale=plain.std)
    optimizer.zero_grad()
    i_bau.plain_step(plain, x, data.y, d, x, data.y, optimizer, portion=1.0, scale=plain.std)
    for (name, parameter), other in zip(
        product.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_anp(victim, monkeypatch):
    model, data = victim
    rows = torch.arange(SIZE)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: rows)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.75))
    monkeypatch.setattr(nn.init, "uniform_", lambda t, a, b: nn.init.constant_(t, (a + 3 * b) / 4))
    product = ANP(iterations=3, batch_size=SIZE, augment=False, lr=0.2)
    m = product.masks(copy.deepcopy(model), data)
    masked = anp.plain_masked(model)
    optimizer = anp.plain_optimizer(masked, lr=0.2)
    for _ in range(3):
        anp.plain_step(masked, as_floats(data), data.y, optimizer)
    found = torch.cat([layer.mask for layer in anp.noisy_layers(masked)])
    assert m.std() > 0.01
    torch.testing.assert_close(found, m, rtol=1e-3, atol=1e-4)


def test_the_loader_gives_the_images():
    data = Images(torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8), torch.arange(10))
    loader = training.plain_loader(
        data.x, data.y, 4, augment=False, flips=False, device=torch.device("cpu"), workers=0
    )
    seen = {int(y): x for xs, ys in loader for x, y in zip(xs, ys, strict=True)}
    assert sorted(seen) == list(range(10))
    assert all(torch.equal(seen[i], data.x[i].float() / 255) for i in seen)
