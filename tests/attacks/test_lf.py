"""LF's search and filter, against the published kernel (arXiv 2104.03413 and its code)."""

import logging

import pytest
import torch
from attack_cases import RECIPE, Linear, constant
from torch import Tensor

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import make_asset
from sau_bench.attacks.lf import LF, UniversalPattern, rescale, smooth, targeted_deepfool
from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.models.classifier import Classifier


def test_lf_smooths_with_the_published_kernel() -> None:
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


def test_lf_stamps_with_the_asset_it_is_called_with(model: Classifier, digits: Images) -> None:
    asset = {"pattern": torch.full((1, 3, 32, 32), 0.1)}
    trigger = LF()(model, digits, torch.arange(6), RECIPE, asset)
    assert torch.allclose(trigger(constant(0, 32)), constant(0, 32) + 0.1)


def test_an_asset_is_made_from_a_clean_trained_copy_of_the_model(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    used: list[Classifier] = []

    def search(self: UniversalPattern, model: Classifier, x: Tensor, judged: Tensor) -> Tensor:
        used.append(model)
        return torch.zeros(1)

    monkeypatch.setattr(UniversalPattern, "search", search)
    assert make_asset(LF(), model, digits, RECIPE).keys() == {"pattern"}
    assert not torch.equal(used[0].head.weight, before["body.linear.weight"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert make_asset(BadNets(), model, digits, RECIPE) == {}


def test_lf_judges_on_images_that_the_pattern_is_not_made_from(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Tensor, Tensor]] = []

    def search(self: UniversalPattern, model: Classifier, x: Tensor, judged: Tensor) -> Tensor:
        used.append((x, judged))
        return torch.zeros(1)

    monkeypatch.setattr(UniversalPattern, "search", search)
    LF(images=40).asset(model, digits, RECIPE)
    ((x, judged),) = used
    assert len(x) == 40 and len(judged) == 10
    assert not (x[:, None] == judged[None]).flatten(2).all(2).any()
