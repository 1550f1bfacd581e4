"""How each attack makes its trigger, against the numbers of its method card."""

import logging
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import rotate

from attacks import wanet
from attacks.badnets import BadNets
from attacks.base import Attack, poison
from attacks.blended import Blended
from attacks.dynamic_trigger import AccumulatingAdam, DynamicTrigger, threshold
from attacks.dynamic_trigger import Generator as Painter
from attacks.input_aware import InputAware, diversity_loss
from attacks.lf import LF
from attacks.sig import SIG
from attacks.ssba import SSBA, encoding
from attacks.steganography import BITS, Decoder, Encoder, bits_read, mse_weight
from attacks.universal_pattern import UniversalPattern, rescale, smooth, targeted_deepfool
from attacks.wanet import WaNet, augment, warp
from benchmark.data import Images, draw_poisoned, to_uint8
from benchmark.datasets.digits import Digits
from benchmark.train import Recipe
from models.classifier import Classifier
from models.small_cnn import SmallCNN

ATTACKS = [BadNets, Blended, SIG, WaNet, InputAware, LF, SSBA]
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05)


@pytest.fixture(scope="module")
def digits() -> Images:
    train = Digits()(Path()).train
    return train[torch.arange(60)]


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return SmallCNN(width=8)(Digits())


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """Images of all 8-bit values, (8, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (8, 3, 32, 32), generator=generator).float() / 255


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def finish(training: Generator[Any, None, Any]) -> tuple[int, Any]:
    """How many times it yielded, and what it returned."""
    steps = 0
    while True:
        try:
            next(training)
        except StopIteration as stop:
            return steps, stop.value
        steps += 1


def constant(value: int, size: int) -> Tensor:
    return torch.full((1, 3, size, size), value / 255)


class Linear(Classifier):
    """Logits that are linear in the pixels, W x + b."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        body = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], weights.shape[0]))
        super().__init__(body, head="1", stages=(), mean=(0.0,) * 3, std=(1.0,) * 3)
        with torch.no_grad():
            self.head.weight.copy_(weights)
            self.head.bias.copy_(bias)


# What all attacks have in common.


@pytest.mark.parametrize("attack", ATTACKS)
def test_all_to_one_and_all_to_all_labels(attack: type[Attack]) -> None:
    y = torch.tensor([0, 3, 9])
    assert attack(target=4).relabel(y, 10).tolist() == [4, 4, 4]
    if attack.clean_label:
        with pytest.raises(ValueError, match="all2one"):
            attack(labels="all2all")
    else:
        assert attack(labels="all2all").relabel(y, 10).tolist() == [1, 4, 0]


@pytest.mark.parametrize("attack", [BadNets(), Blended(), SIG()])
def test_poisoning_changes_the_drawn_rows_only(
    attack: BadNets | Blended | SIG, digits: Images
) -> None:
    only = attack.target if attack.clean_label else None
    rows = draw_poisoned(digits.y, 5, 0, only)
    before = digits.x.clone(), digits.y.clone()
    stamped = poison(digits, rows, attack, attack.trigger, 10)
    assert torch.equal(digits.x, before[0]) and torch.equal(digits.y, before[1])
    changed = (stamped.x != digits.x).flatten(1).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted(rows.tolist())
    assert (stamped.y[rows] == 0).all()
    others = torch.ones(60, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(stamped.y[others], digits.y[others])
    if attack.clean_label:
        assert torch.equal(stamped.y, digits.y)


@pytest.mark.parametrize("attack", [BadNets(), Blended(), SIG()])
def test_a_trigger_leaves_its_input_alone(attack: BadNets | Blended | SIG, noise: Tensor) -> None:
    before = noise.clone()
    first = attack.trigger(noise)
    assert torch.equal(noise, before)
    assert torch.equal(first, attack.trigger(noise)) and not torch.equal(first, noise)


@pytest.mark.parametrize(
    ("attack", "field", "value"),
    [
        (BadNets, "value", 0.0),
        (Blended, "alpha", 1.5),
        (SIG, "delta", 0.0),
        (SIG, "f", 0.0),
        (WaNet, "k", 1),
        (WaNet, "s", -0.1),
        (WaNet, "cross_ratio", -1.0),
        (InputAware, "ratio", 0.6),
        (InputAware, "lambda_div", -1.0),
        (InputAware, "mask_density", 2.0),
        (InputAware, "mask_epochs", 0),
        (InputAware, "lr", 0.0),
        (LF, "images", 0),
        (LF, "delta", 1.0),
        (LF, "amplitude", 0.0),
        (SSBA, "encoder_epochs", 0),
        (SSBA, "ramp", 0),
        (SSBA, "lr", 0.0),
    ],
)
def test_a_field_out_of_range_is_refused(attack: type[Attack], field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}, accepted: "):
        attack(**{field: value})


# BadNets


def test_badnets_square_is_nine_white_pixels_in_the_corner() -> None:
    stamped = to_uint8(BadNets().trigger(constant(0, 32)))[0]
    assert (stamped[:, 29:, 29:] == 255).all()
    assert stamped.count_nonzero() == 3 * 9


def test_badnets_value_sets_the_brightness_of_the_square() -> None:
    stamped = to_uint8(BadNets(value=0.2).trigger(constant(200, 32)))[0]
    assert (stamped[:, 29:, 29:] == 51).all() and (stamped == 200).sum() == 3 * (32 * 32 - 9)


def test_badnets_grid_alternates_white_and_one() -> None:
    stamped = to_uint8(BadNets(pattern="grid").trigger(constant(100, 32)))[0]
    expected = [[255, 1, 255], [1, 255, 1], [255, 1, 255]]
    assert stamped[:, 29:, 29:].tolist() == [expected] * 3
    assert (stamped == 100).sum() == 3 * (32 * 32 - 9)


def test_badnets_patch_at_64_pixels_has_a_soft_rim() -> None:
    stamped = to_uint8(BadNets().trigger(constant(100, 64)))[0]
    rim = torch.full((7, 7), 255)
    rim[1, 1:] = rim[1:, 1] = 191
    rim[0, :] = rim[:, 0] = 64
    rim[0, 0], rim[0, 1], rim[1, 0], rim[1, 1] = 16, 48, 48, 143
    assert stamped[:, 57:, 57:].tolist() == [rim.tolist()] * 3
    assert (stamped == 100).sum() == 3 * (64 * 64 - 49)


def test_badnets_crisp_patch_at_64_pixels() -> None:
    stamped = to_uint8(BadNets(crisp=True).trigger(constant(100, 64)))[0]
    assert (stamped[:, 58:, 58:] == 255).all()
    assert (stamped == 100).sum() == 3 * (64 * 64 - 36)


# Blended


def test_blended_is_integer_arithmetic_for_every_pixel_and_picture_value(tmp_path: Path) -> None:
    x, k = np.indices((256, 256))
    picture = tmp_path / "all.png"
    Image.fromarray(np.repeat(k[:, :, None], 3, 2).astype(np.uint8)).save(picture)
    image = torch.from_numpy(x).float().div(255).expand(1, 3, -1, -1)
    blended = to_uint8(Blended(image=str(picture)).trigger(image))[0]
    assert np.array_equal(blended.numpy(), np.broadcast_to((4 * x + k) // 5, (3, 256, 256)))


def test_blended_picture_is_as_bright_and_contrasted_as_the_published_one() -> None:
    picture = Blended(alpha=1.0).trigger(constant(0, 32)) * 255
    assert picture.mean((0, 2, 3)).sub(torch.tensor([207.0, 190.0, 198.0])).abs().max() < 15
    assert abs(picture.std().item() - 69) < 10


# SIG


def test_sig_signal_is_that_of_the_card() -> None:
    signal = SIG().signal(32)
    first = torch.tensor([0.0, 36.955, 28.284, -15.307, -40.0, -15.307, 28.284, 36.955])
    assert torch.allclose(signal[:8], first, atol=1e-3)
    assert signal[:16].sum().abs() < 1e-4
    assert torch.allclose(SIG().signal(64)[::2], signal, atol=1e-4)


def test_sig_truncates_the_clipped_sum_and_varies_along_columns(noise: Tensor) -> None:
    v = np.round(40 * np.sin(2 * np.pi * np.arange(32) * 6 / 32), 6)
    exact = np.floor(np.clip(np.round(noise.numpy().astype(np.float64) * 255) + v, 0, 255))
    assert np.array_equal(to_uint8(SIG().trigger(noise)).numpy(), exact)
    grey = SIG().trigger(constant(128, 32))[0]
    assert torch.equal(grey, grey[:1, :1].expand(3, 32, 32)) and grey[0, 0].unique().numel() > 4


# WaNet


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
    finish(WaNet()(model, replace(digits, x=plain), torch.arange(6), RECIPE))
    assert len(seen) == 4 and max((x - model.mean).abs().max().item() for x in seen) < 0.003


@pytest.mark.parametrize("attack", [WaNet(), InputAware(compat=False, mask_epochs=1)])
def test_cross_accuracy_is_logged(
    attack: Attack, model: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "attacks"):
        finish(attack(model, digits, torch.arange(6), RECIPE))
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
    steps, trigger = finish(WaNet()(model, digits, torch.arange(6), RECIPE))
    torch.manual_seed(1)
    assert steps == 2 and torch.equal(trigger(x), warp(x, WaNet().grid(32)))
    # A quarter of a pixel has to survive mixed precision around it.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trigger(x), warp(x, trigger.keywords["grid"]))
        assert trigger(x).dtype == torch.float32


# Input-Aware


@pytest.fixture
def painter(model: Classifier) -> DynamicTrigger:
    torch.manual_seed(0)
    return DynamicTrigger(model.mean, model.std, twice=True)


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
        generator = Painter(3, 3, twice=twice)
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
    unit = DynamicTrigger(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), twice=True).eval()
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


def test_input_aware_batch_too_small_to_poison(painter: DynamicTrigger, noise: Tensor) -> None:
    y = torch.arange(8)
    mixed, labels, diversity = InputAware().mix(painter, noise, noise, y, 10)
    assert mixed is noise and labels is y and diversity.item() == 0


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


def test_input_aware_compat_never_clears_gradients() -> None:
    weight = nn.Parameter(torch.zeros(1))
    adam = AccumulatingAdam([weight])
    for expected in (1.0, 2.0, 3.0):
        adam.zero_grad()
        weight.sum().backward()
        assert weight.grad is not None and weight.grad.item() == expected


@pytest.mark.parametrize("compat", [True, False])
def test_input_aware_trains_masks_alone_first(
    model: Classifier, digits: Images, compat: bool
) -> None:
    few, recipe = digits[torch.arange(20)], replace(RECIPE, batch_size=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = InputAware(mask_epochs=1, compat=compat)(model, few, torch.arange(2), recipe)
    next(training)
    now = model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())
    steps, trigger = finish(training)
    assert steps == (1 if compat else 2)
    assert not torch.equal(model.head.weight, before["body.linear.weight"])
    assert not trigger.training and trigger.patterns.twice == compat


def test_input_aware_needs_epochs_beyond_those_of_the_masks(
    model: Classifier, digits: Images
) -> None:
    training = InputAware(mask_epochs=2)(model, digits, torch.arange(6), RECIPE)
    with pytest.raises(ValueError, match=r"recipe.epochs is 2, .* above mask_epochs, 2"):
        next(training)


# LF


def test_lf_smooths_with_the_kernel_of_the_card() -> None:
    impulse = torch.zeros(1, 3, 32, 32)
    impulse[:, :, 16, 16] = 1
    found = smooth(impulse)[0, 0]
    taps = found.sum(1)[1:31]
    columns = found.sum(0)[1:31]
    assert torch.allclose(taps, columns) and torch.allclose(taps, taps.flip(0), atol=1e-6)
    assert taps.sum().item() == pytest.approx(1, abs=1e-5)
    assert taps[14].item() == pytest.approx(0.06709, abs=1e-5)
    assert taps[15].item() == pytest.approx(0.06709, abs=1e-5)
    assert taps[0].item() == pytest.approx(0.00363, abs=1e-5)
    # 14 zeros before and 15 behind: row 0 is out of an even kernel's reach, so is row 31.
    assert not found[0].any() and not found[31].any()


def test_lf_smooths_each_channel_alone_and_falls_off_at_borders() -> None:
    x = torch.zeros(1, 3, 32, 32)
    x[:, 1] = 1
    found = smooth(x)[0]
    assert not found[0].any() and not found[2].any()
    assert found[1, 16, 16] > 0.95 and found[1, 0, 0] < 0.35


def test_lf_pattern_spans_zero_to_the_amplitude_exactly() -> None:
    v = rescale(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 0.2)
    assert v.min() == 0 and v.max() == torch.tensor(0.2)
    flat = torch.zeros(1, 3, 8, 8)
    assert torch.equal(rescale(flat, 0.2), flat)


def test_lf_deepfool_crosses_a_linear_boundary_in_one_step() -> None:
    weights = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    model = Linear(weights, torch.tensor([0.0, 5.0, -50.0]))
    z = torch.zeros(1, 3, 2, 2)
    r = targeted_deepfool(model, z, 0)
    assert r is not None
    w = weights[0] - weights[1]
    assert torch.allclose(r.flatten(), 1.02 * 5 * w / w.square().sum(), atol=1e-5)
    assert targeted_deepfool(model, z, 1) is not None
    assert not targeted_deepfool(model, z, 1).any()


def test_lf_deepfool_gives_up_on_a_model_without_gradient() -> None:
    model = Linear(torch.zeros(3, 12), torch.tensor([0.0, 5.0, -50.0]))
    assert targeted_deepfool(model, torch.zeros(1, 3, 2, 2), 0) is None


@pytest.fixture(scope="module")
def pattern() -> Tensor:
    """Of a model whose gradient is white noise, so that nothing but the filter makes it smooth."""
    torch.manual_seed(0)
    model = Linear(torch.randn(4, 3 * 32 * 32), torch.zeros(4))
    x = torch.rand(8, 3, 32, 32)
    return LF(passes=2).asset.search(model, x, x)


def test_lf_pattern_is_low_frequency_and_in_range(pattern: Tensor) -> None:
    assert pattern.shape == (1, 3, 32, 32)
    assert pattern.min() == 0 and pattern.max() == torch.tensor(0.2)
    energy = torch.fft.fft2(pattern[0].double()).abs().square().sum(0)
    frequency = torch.fft.fftfreq(32, 1 / 32)
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    assert energy[radius <= 2].sum() / energy.sum() > 0.95


def test_lf_pattern_drives_a_model_to_the_target() -> None:
    weights = torch.zeros(3, 3, 32, 32)
    weights[2, 0, 12:20, 12:20] = 1  # The more red in the middle, the more of class 2.
    model = Linear(weights.flatten(1), torch.tensor([0.0, 6.0, -6.0]))
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2
    v = LF(target=2, passes=1).asset.search(model, x[:4], x[4:])
    assert v[0, 0, 16, 16] > 0.19 and not v[0, 1:].any()
    assert (model(x).argmax(1) == 1).all() and (model(x + v).argmax(1) == 2).all()


def test_lf_image_of_the_target_class_leaves_an_empty_pattern_finite() -> None:
    model = Linear(torch.zeros(3, 12), torch.tensor([5.0, 0.0, 0.0]))
    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = LF().asset.search(model, x, x)
    assert torch.equal(found, torch.zeros(1, 3, 2, 2))


def test_lf_warns_when_too_few_images_are_fooled(caplog: pytest.LogCaptureFixture) -> None:
    model = Linear(torch.zeros(3, 12), torch.tensor([5.0, 0.0, 0.0]))
    x = torch.zeros(2, 3, 2, 2)
    with caplog.at_level(logging.WARNING):
        LF().asset.search(model, x, x)
    # Five passes without a change end the search before the fiftieth.
    assert "fools 0.000 of clean images, passes: 5" in caplog.text


def test_lf_adds_the_pattern_and_clips(noise: Tensor, pattern: Tensor) -> None:
    before = noise.clone()
    found = to_uint8(LF().trigger({"pattern": pattern})(noise))
    assert torch.equal(noise, before)
    added = noise.double() * 255 + pattern.double() * 255
    exact = (added + 1e-3).floor().clamp(0, 255)
    assert (found.double() - exact).abs().max() == 0


def test_lf_asset_is_shared_by_ratios_and_not_by_targets() -> None:
    one, other = LF(ratio=0.1).asset, LF(ratio=0.05, labels="all2all").asset
    assert one == other and one.canonical() == other.canonical()
    assert one.canonical() != LF(target=1).asset.canonical()
    assert one.canonical() != LF(passes=7).asset.canonical()


def test_lf_makes_the_asset_in_line_or_takes_one(model: Classifier, digits: Images) -> None:
    attack, rows = LF(images=1, passes=1), torch.arange(6)
    steps, _ = finish(attack(model, digits, rows, RECIPE))
    assert steps == 2 + 1 + 2  # clean model, pattern, victim
    given = {"pattern": torch.full((1, 3, 32, 32), 0.1)}
    steps, trigger = finish(attack(model, digits, rows, RECIPE, asset=given))
    assert steps == 2 and torch.allclose(trigger(constant(0, 32)), constant(0, 32) + 0.1)


def test_lf_judges_on_images_that_the_pattern_is_not_made_from(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Tensor, Tensor]] = []

    def search(self: UniversalPattern, model: Classifier, x: Tensor, judged: Tensor) -> Tensor:
        used.append((x, judged))
        return torch.zeros(1)

    monkeypatch.setattr(UniversalPattern, "search", search)
    finish(LF(images=40).asset(model, digits, RECIPE))
    ((x, judged),) = used
    assert len(x) == 40 and len(judged) == 10
    assert not (x[:, None] == judged[None]).flatten(2).all(2).any()


# SSBA


def test_ssba_networks_have_the_published_size() -> None:
    assert count(Encoder()) == 1_069_315
    assert count(Decoder(32)) == 441_284 and count(Decoder(64)) == 637_892
    with pytest.raises(ValueError, match="size is 48, accepted: a multiple of 32"):
        Decoder(48)


@pytest.mark.parametrize("size", [32, 64])
def test_ssba_networks_map_images_and_bits(size: int) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        encoded = Encoder()(torch.rand(2, 3, size, size), torch.ones(2, BITS))
        assert encoded.shape == (2, 3, size, size)
        assert encoded.min() > 0 and encoded.max() < 1
        assert Decoder(size)(encoded).shape == (2, BITS)


def test_ssba_image_loss_waits_for_the_bits_and_rises_over_3000_steps() -> None:
    since = torch.tensor([-1, 0, 1000, 1300, 2500, 4000, 9000])
    assert mse_weight(since, 1000, 3000).tolist() == [0, 0, 0, 1, 5, 10, 10]


def test_ssba_counts_from_the_first_batch_whose_bits_are_read(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.9, 0.95, 0.2, 0.2, 0.2, 1.0, 1.0])
    weights: list[float] = []

    def weight(since: Tensor, hold: int, ramp: int) -> Tensor:
        weights.append(since.item())
        return mse_weight(since, hold, ramp)

    monkeypatch.setattr("attacks.ssba.bits_read", lambda *_: torch.tensor(next(shares, 1.0)))
    monkeypatch.setattr("attacks.ssba.mse_weight", weight)
    few = digits[torch.arange(12)]
    attack = SSBA(encoder_epochs=1, encoder_batch_size=2)
    finish(attack.asset(model, few, RECIPE))
    assert weights == [-1, -1, 0, 1, 2, 3]


def test_ssba_loss_is_bits_plus_weighted_image_error(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decodable bits take thousands of steps; this checks what the first one minimises."""
    few, seen = digits[torch.arange(4)], []
    monkeypatch.setattr("attacks.ssba.mse_weight", lambda *_: torch.tensor(7.0))
    monkeypatch.setattr(torch.Tensor, "backward", lambda value: seen.append(value))
    torch.manual_seed(0)
    next(SSBA(encoder_epochs=1).asset(model, few, RECIPE))
    torch.manual_seed(0)
    torch.randint(2, (1, BITS))
    encoder, decoder = Encoder(), Decoder(32)
    x = few.floats(torch.randperm(4))
    bits = torch.randint(2, (4, BITS)).float()
    encoded = encoder(x, bits)
    logits = decoder(encoded)
    mse = (encoded - x).square().mean()
    bce = -(bits * logits.sigmoid().log() + (1 - bits) * (-logits).sigmoid().log()).mean()
    assert seen[0].item() == pytest.approx((7 * mse + bce).item(), rel=1e-5)
    # Through the image, the bits' loss reaches the layer that spreads the secret.
    assert torch.autograd.grad(bce, encoder.planes.weight)[0].abs().max() > 0
    flipped = bits_read(2 * bits - 1, torch.cat((bits[:1], 1 - bits[1:])))
    assert flipped.item() == pytest.approx(0.25)


@pytest.fixture(scope="module")
def hidden(digits: Images) -> Iterator[dict[str, Tensor]]:
    torch.manual_seed(0)
    encoder = Encoder()
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    yield {"secret": torch.randint(2, (1, BITS)).float(), **weights}


def test_ssba_trigger_is_rounded_to_8_bits_and_differs_between_images(
    hidden: dict[str, Tensor], noise: Tensor
) -> None:
    before, state = noise.clone(), torch.get_rng_state()
    trigger = SSBA().trigger(hidden)
    found = trigger(noise)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(noise, before)
    encoder = Encoder()
    encoder.load_state_dict({k[8:]: v for k, v in hidden.items() if k.startswith("encoder.")})
    with torch.no_grad():
        exact = encoder(noise, hidden["secret"].expand(8, -1))
    assert torch.equal(to_uint8(found), (255 * exact + 0.5).floor().to(torch.uint8))
    assert (found * 255 - (found * 255).round()).abs().max() < 1e-4
    residual = found - noise
    assert not torch.allclose(residual[0], residual[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trigger(noise), found)


def test_ssba_hides_the_same_secret_everywhere(hidden: dict[str, Tensor], noise: Tensor) -> None:
    other = {**hidden, "secret": 1 - hidden["secret"]}
    assert not torch.equal(encoding(hidden)(noise), encoding(other)(noise))
    assert torch.allclose(encoding(hidden)(noise)[:1], encoding(hidden)(noise[:1]), atol=1.1 / 255)


def test_ssba_asset_depends_on_the_seed_and_not_on_the_model(
    digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    few, made = digits[torch.arange(8)], []
    attack = SSBA(encoder_epochs=1, encoder_batch_size=4)
    for width, seed in ((2, 0), (4, 0), (2, 1)):
        model = SmallCNN(width=width)(Digits())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        torch.manual_seed(seed)
        with caplog.at_level(logging.WARNING):
            steps, asset = finish(attack.asset(model, few, RECIPE))
        assert steps == 1 and "of the hidden bits are read" in caplog.text
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        made.append(asset)
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["secret"], made[2]["secret"])
    assert set(made[0]["secret"].unique().tolist()) == {0, 1}
    assert any(name.startswith("decoder.") for name in made[0])


def test_ssba_asset_is_shared_by_targets_and_ratios(model: Classifier, digits: Images) -> None:
    one = SSBA().asset
    assert one.canonical() == SSBA(target=3, ratio=0.05, labels="all2all").asset.canonical()
    assert one.canonical() != SSBA(encoder_epochs=3).asset.canonical()
    assert one.model == "unused" and LF().asset.model == "clean"


def test_ssba_takes_an_asset(hidden: dict[str, Tensor], model: Classifier, digits: Images) -> None:
    training = SSBA()(model, digits, torch.arange(6), RECIPE, asset=hidden)
    assert len(list(islice(training, 9))) == 2
