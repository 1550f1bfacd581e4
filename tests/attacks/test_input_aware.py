"""Input-Aware's generators and losses, against the published sizes (arXiv 2010.08138)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_cases import RECIPE, count
from torch import Tensor, nn

from sau_bench.attacks.input_aware import (
    AccumulatingAdam,
    DynamicTrigger,
    Generator,
    InputAware,
    diversity_loss,
    generator_widths,
    threshold,
)
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import fit
from sau_bench.models.classifier import Classifier

WIDTHS = generator_widths(32, 32)


@pytest.fixture
def painter(model: Classifier) -> DynamicTrigger:
    torch.manual_seed(0)
    return DynamicTrigger(model.mean, model.std, WIDTHS, twice=True)


def test_input_aware_generators_have_the_published_size(painter: DynamicTrigger) -> None:
    assert count(painter.patterns) == 723_273
    assert count(painter.masks) == 722_691


def test_input_aware_threshold_is_soft_around_one_half() -> None:
    found = threshold(torch.tensor([0.5, 0.3, 0.0, 1.0]))
    assert found[0].item() == pytest.approx(0.5)
    assert found[1].item() == pytest.approx(3.4e-4, rel=0.02)
    assert found.min() >= 0 and found.max() <= 1


def test_input_aware_second_tanh_narrows_the_output() -> None:
    loud = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ranges = []
    for twice in (True, False):
        torch.manual_seed(0)
        generator = Generator(3, 3, WIDTHS, twice=twice)
        assert isinstance(generator[-1], nn.BatchNorm2d)
        with torch.no_grad():
            generator[-1].weight.fill_(30)
            found = generator(loud)
        ranges.append((found.min().item(), found.max().item()))
    assert ranges[0] == pytest.approx((0.119, 0.881), abs=1e-3)
    assert ranges[1] == pytest.approx((0, 1), abs=1e-3)


def test_input_aware_paints_between_image_and_pattern(
    painter: DynamicTrigger, noise: Tensor
) -> None:
    painter.eval()
    painted = painter(noise)
    pattern, mask = painter.pattern(noise), painter.mask(noise)
    assert mask.shape == (8, 1, 32, 32)
    assert torch.allclose(painted, noise + (pattern - noise) * mask, atol=1e-6)
    assert painted.min() >= 0 and painted.max() <= 1 and not painted.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(painter(noise), painted)
    # Generators see normalised images: the pattern of an image does not depend on mean and std.
    unit = DynamicTrigger(
        torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), WIDTHS, twice=True
    ).eval()
    unit.patterns.load_state_dict(painter.patterns.state_dict())
    normal = (noise - painter.mean) / painter.std
    assert torch.allclose(unit.pattern(normal), pattern, atol=1e-5)


def test_input_aware_cross_images_carry_another_trigger_and_keep_labels(
    painter: DynamicTrigger, noise: Tensor
) -> None:
    painter.train()  # Untrained and in evaluation mode, all patterns are almost equal.
    x, z = noise.repeat(3, 1, 1, 1)[:20], 1 - noise.repeat(3, 1, 1, 1)[:20]
    y = torch.arange(20) % 9 + 1
    mixed, labels, diversity = InputAware().mix(painter, x, z, y, 10)
    assert labels.tolist() == [0, 0, *y[2:].tolist()]
    assert torch.allclose(mixed[:2], painter(x[:2]), atol=1e-6)
    crossed = x[2:4] + (painter.pattern(z[2:4]) - x[2:4]) * painter.mask(z[2:4])
    assert torch.allclose(mixed[2:4], crossed, atol=1e-6)
    assert torch.equal(mixed[4:], x[4:])

    def rms(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) / painter.std).square().mean((1, 2, 3)).sqrt()

    patterns = painter.pattern(x[:2]), painter.pattern(z[2:4])
    expected = (rms(x[:2], z[2:4]) / rms(*patterns)).mean()
    assert diversity.item() == pytest.approx(expected.item(), rel=1e-4)


def test_input_aware_small_batches_have_a_poisoned_image_by_chance(
    painter: DynamicTrigger, noise: Tensor
) -> None:
    y, poisoned = torch.arange(8) + 1, 0
    torch.manual_seed(0)
    for _ in range(60):
        mixed, labels, diversity = InputAware().mix(painter, noise, 1 - noise, y, 10)
        if labels[0] == 0:
            poisoned += 1
            changed = (mixed != noise).flatten(1).any(1)
            assert changed.tolist() == [True] * 2 + [False] * 6 and diversity > 0
            assert labels.tolist() == [0, *y[1:].tolist()]
        else:
            assert mixed is noise and labels is y and diversity.item() == 0
    assert 38 <= poisoned <= 58  # with probability 0.8
    # Nothing is drawn for larger batches, and a single image stays clean.
    state = torch.get_rng_state()
    assert InputAware().count(128) == 12 and torch.equal(torch.get_rng_state(), state)
    assert {InputAware(ratio=0.5).count(1) for _ in range(20)} == {0}


def test_input_aware_mask_loss_weighs_size_and_diversity(
    painter: DynamicTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    black, white = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)

    def mask(x: Tensor) -> Tensor:
        return torch.full((2, 1, 8, 8), 0.132 if x is black else 0.332)

    monkeypatch.setattr(painter, "mask", mask)
    found = InputAware().mask_loss(painter, black, white).item()
    # 100 times the excess over the density, and the distance of images over that of masks.
    assert found == pytest.approx(100 * 0.1 + 1 / 0.34 / 0.2, rel=1e-4)


def test_input_aware_equal_patterns_have_a_finite_gradient() -> None:
    pattern = torch.rand(2, 3, 4, 4, requires_grad=True)
    diversity_loss(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), pattern, pattern).backward()
    assert pattern.grad is not None and pattern.grad.isfinite().all()


def test_input_aware_as_published_never_clears_gradients() -> None:
    weight = nn.Parameter(torch.zeros(1))
    adam = AccumulatingAdam([weight])
    for expected in (1.0, 2.0, 3.0):
        adam.zero_grad()
        weight.sum().backward()
        assert weight.grad is not None and weight.grad.item() == expected


@pytest.mark.parametrize("as_published", [True, False])
def test_input_aware_trains_masks_alone_first(
    model: Classifier, digits: Images, as_published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, recipe = digits[torch.arange(20)], replace(RECIPE, batch_size=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still: list[bool] = []

    def spy(*arguments: Any, **options: Any) -> Iterator[Classifier]:
        for trained in fit(*arguments, **options):
            now = trained.state_dict()
            still.append(all(torch.equal(now[name], value) for name, value in before.items()))
            yield trained

    monkeypatch.setattr("sau_bench.attacks.input_aware.fit", spy)
    attack = InputAware(mask_epochs=1, as_published=as_published)
    trigger = attack(model, few, torch.arange(2), recipe, {})
    assert still == ([True, False] if as_published else [True, False, False])
    assert isinstance(trigger, DynamicTrigger)
    assert not trigger.training and trigger.patterns.twice == as_published


def test_input_aware_needs_epochs_beyond_those_of_the_masks(
    model: Classifier, digits: Images
) -> None:
    with pytest.raises(ValueError, match=r"recipe.epochs is 2, .* above mask_epochs, 2"):
        InputAware(mask_epochs=2)(model, digits, torch.arange(6), RECIPE, {})
