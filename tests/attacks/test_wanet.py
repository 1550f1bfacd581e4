"""WaNet's field, noise mode and augmentation, against the published numbers (arXiv 2102.10369)."""

import logging
from dataclasses import replace

import pytest
import torch
from attack_cases import RECIPE
from torch import Tensor
from torchvision.transforms.functional import rotate

from sau_bench.attacks import wanet
from sau_bench.attacks.base import Attack
from sau_bench.attacks.input_aware import InputAware
from sau_bench.attacks.wanet import WaNet, Warp, augment, warp
from sau_bench.benchmark.data import Images
from sau_bench.models.classifier import Classifier


def test_wanet_without_strength_is_the_identity(noise: Tensor) -> None:
    assert (warp(noise, WaNet(s=0.0).grid(32)) - noise).abs().max() < 1e-5


def test_wanet_moves_pixels_by_a_fifth_on_average() -> None:
    torch.manual_seed(0)
    still = WaNet(s=0.0).grid(32)
    pixels = torch.stack([(WaNet().grid(32) - still).abs().mean() * 31 / 2 for _ in range(60)])
    assert pixels.min() > 0.12 and pixels.max() < 0.26
    assert abs(pixels.mean() - 0.19) < 0.01


def test_wanet_control_points_have_mean_one() -> None:
    torch.manual_seed(0)
    at_controls = (WaNet().grid(4) - WaNet(s=0.0).grid(4)) * 4 / 0.5
    # At as many pixels as control points nothing is interpolated; borders may be clamped.
    torch.manual_seed(0)
    z = 2 * torch.rand(1, 2, 4, 4) - 1
    z = (z / z.abs().mean()).permute(0, 2, 3, 1)
    assert torch.allclose(at_controls[:, 1:3, 1:3], z[:, 1:3, 1:3], atol=1e-5)


def test_wanet_field_comes_from_the_seed_and_points_are_x_before_y() -> None:
    torch.manual_seed(3)
    first = WaNet().grid(32)
    torch.manual_seed(3)
    assert torch.equal(first, WaNet().grid(32))
    assert not torch.equal(first, WaNet().grid(32))
    still = WaNet(s=0.0).grid(32)
    assert torch.allclose(still[0, 5, :, 0], torch.linspace(-1, 1, 32))
    assert torch.allclose(still[0, :, 5, 1], torch.linspace(-1, 1, 32))


def test_wanet_batch_is_poisoned_then_in_noise_mode_then_clean(
    noise: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, y = noise.repeat(5, 1, 1, 1), torch.arange(40) % 9 + 1
    attack, grids = WaNet(), []

    def spy(x: Tensor, grid: Tensor) -> Tensor:
        grids.append(grid)
        return warp(x, grid)

    grid = attack.grid(32)
    monkeypatch.setattr(wanet, "warp", spy)
    mixed, labels = attack.mix(x, y, grid, 10)
    assert labels.tolist() == [0] * 4 + y[4:].tolist()
    assert torch.equal(mixed[:4], warp(x[:4], grid)) and torch.equal(mixed[12:], x[12:])
    shaken = grids[1]
    moved = (shaken - grid).abs()
    assert len(shaken) == 8 and moved.max() <= 1 / 32 + 1e-6
    # Uniform up to the bound, fresh for each image, pixel and coordinate.
    assert 0.45 / 32 < moved[:, 2:-2, 2:-2].mean() < 0.55 / 32
    assert not torch.equal(shaken[0], shaken[1]) and shaken.abs().max() <= 1
    assert not torch.equal(attack.mix(x, y, grid, 10)[0][4:12], mixed[4:12])


def test_wanet_takes_the_rest_of_a_batch_at_most_and_small_batches_by_chance(
    noise: Tensor,
) -> None:
    torch.manual_seed(0)
    y = torch.ones(8, dtype=torch.int64)
    grid = WaNet().grid(32)
    mixed, labels = WaNet(ratio=0.5).mix(noise, y, grid, 10)
    assert mixed.shape == noise.shape and labels.tolist() == [0] * 4 + [1] * 4
    drawn = [int((WaNet().mix(noise[:5], y[:5], grid, 10)[1] == 0).sum()) for _ in range(60)]
    assert set(drawn) == {0, 1} and 18 <= sum(drawn) <= 42


def test_wanet_augmentation_is_one_for_the_batch_or_one_for_each_image() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    x = image.repeat(6, 1, 1, 1)
    torch.manual_seed(0)
    cropped = 0
    for _ in range(30):
        together = augment(x, True, True)
        assert torch.equal(together, together[:1].expand_as(together))
        cropped += not torch.equal(together[:1], image) and not torch.equal(
            together[:1], image.flip(3)
        )
    assert 18 <= cropped <= 30
    apart = augment(x, False, True)
    assert len({tuple(one.flatten().tolist()) for one in apart}) > 2
    # What lies outside is zero, the rest are pixels of the image, in their places.
    assert set(apart.unique().tolist()) <= {0.0, *image.unique().tolist()}
    assert not augment(torch.zeros(2, 3, 32, 32), False, True).any()


def test_wanet_crops_by_whole_pixels_and_rotates_to_the_nearest_pixel(noise: Tensor) -> None:
    shift = torch.tensor([[[1.0, 0.0, 3 * 2 / 32], [0.0, 1.0, -5 * 2 / 32]]])
    expected = torch.zeros_like(noise)
    expected[:, :, 5:, :-3] = noise[:, :, :-5, 3:]
    assert torch.equal(wanet._nearest(noise, shift), expected)
    angle = torch.tensor(10.0).deg2rad()
    turn = torch.tensor([[[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]]])
    same = wanet._nearest(noise, turn) == rotate(noise, 10)
    assert same.float().mean() > 0.999


def test_wanet_fills_borders_with_the_mean_colour(model: Classifier, digits: Images) -> None:
    plain = (model.mean * 255).round().to(torch.uint8).expand(60, 3, 32, 32)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda _, args: seen.append(args[0]) if model.training else None
    )
    torch.manual_seed(0)
    WaNet()(model, replace(digits, x=plain), torch.arange(6), RECIPE, {})
    assert len(seen) == 4 and max((x - model.mean).abs().max().item() for x in seen) < 0.003


@pytest.mark.parametrize("attack", [WaNet(), InputAware(as_published=False, mask_epochs=1)])
def test_cross_accuracy_is_logged(
    attack: Attack, model: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sau_bench.attacks"):
        attack(model, digits, torch.arange(6), RECIPE, {})
    (text,) = [r.getMessage() for r in caplog.records if "cross" in r.getMessage()]
    share = float(text.split()[2])
    assert text.endswith("on 60 training images") and round(60 * share, 1).is_integer()


def test_wanet_noise_moves_pixels_around_the_field(noise: Tensor) -> None:
    grid = WaNet(s=0).grid(32)
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32).contiguous()
    torch.manual_seed(0)
    moved = (wanet.shake(ramp, grid) - ramp)[:, 0, :, 1:-1] * 31
    assert 0.4 < moved.abs().max() <= 15.5 / 32 + 1e-4 and moved.mean().abs() < 0.02
    assert not torch.equal(moved[0], moved[1])


def test_wanet_trigger_is_the_field_that_training_used(model: Classifier, digits: Images) -> None:
    x = digits.floats()
    torch.manual_seed(1)
    trigger = WaNet()(model, digits, torch.arange(6), RECIPE, {})
    torch.manual_seed(1)
    assert isinstance(trigger, Warp) and torch.equal(trigger(x), warp(x, WaNet().grid(32)))
    # A quarter of a pixel has to survive mixed precision around it.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trigger(x), warp(x, trigger.grid))
        assert trigger(x).dtype == torch.float32
