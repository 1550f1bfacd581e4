"""SSBA's networks and training, against the published sizes (StegaStamp, arXiv 1904.05343)."""

import logging
from collections.abc import Iterator

import pytest
import torch
from attack_cases import RECIPE, count
from torch import Tensor

from sau_bench.attacks.lf import LF
from sau_bench.attacks.ssba import BITS, SSBA, Decoder, Encoder, bits_read, encoding, mse_weight
from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.models.classifier import Classifier
from sau_bench.models.small_cnn import SmallCNN


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

    monkeypatch.setattr(
        "sau_bench.attacks.ssba.bits_read", lambda *_: torch.tensor(next(shares, 1.0))
    )
    monkeypatch.setattr("sau_bench.attacks.ssba.mse_weight", weight)
    few = digits[torch.arange(12)]
    attack = SSBA(encoder_epochs=1, encoder_batch_size=2)
    attack.asset(model, few, RECIPE)
    assert weights == [-1, -1, 0, 1, 2, 3]


def test_ssba_loss_is_bits_plus_weighted_image_error(
    model: Classifier, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decodable bits take thousands of steps; this checks what the first one minimises."""
    few, seen = digits[torch.arange(4)], []
    monkeypatch.setattr("sau_bench.attacks.ssba.mse_weight", lambda *_: torch.tensor(7.0))
    monkeypatch.setattr(torch.Tensor, "backward", lambda value: seen.append(value))
    torch.manual_seed(0)
    SSBA(encoder_epochs=1).asset(model, few, RECIPE)
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
            asset = attack.asset(model, few, RECIPE)
        assert "of the hidden bits are read" in caplog.text
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
    assert one.model_state == "unused" and LF().asset.model_state == "clean"


def test_ssba_stamps_with_the_asset_it_is_called_with(
    hidden: dict[str, Tensor], model: Classifier, digits: Images
) -> None:
    trigger = SSBA()(model, digits, torch.arange(6), RECIPE, hidden)
    x = digits.floats(slice(4))
    assert torch.equal(trigger(x), encoding(hidden)(x))
