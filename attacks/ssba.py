"""SSBA: an invisible trigger for each image (Li et al., ICCV 2021, arXiv 2012.03816)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.asset import Asset, AssetPoisoning, Making
from attacks.base import Trigger
from attacks.steganography import BITS, Decoder, Encoder, bits_read, mse_weight
from benchmark.data import Images
from benchmark.errors import check_range
from benchmark.train import Precision, Recipe, fit
from models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SSBA(AssetPoisoning):
    """x becomes E(b, x): a trained encoder hides one fixed string b of 100 bits in every image.

    encoder_epochs: of the encoder's and decoder's training on the clean training images, at least
    1. encoder_batch_size: images in a step, at least 1. hold, ramp: once 0.9 of a batch's bits are
    read, fidelity to the image counts nothing for `hold` more steps, then its weight rises to 10
    over `ramp` steps; 0 and 1 or more. lr: of Adam, constant, above 0. encoder_precision: of the
    encoder's and decoder's training; images are always encoded in fp32.

    Note: b is drawn from the seed, where the published code hides an error-correcting code of a
    word; any fixed string does the same. Encoded images are rounded to 8 bits, as published.
    """

    name: ClassVar[str] = "SSBA"
    smoke: ClassVar[dict[str, Any]] = {"encoder_epochs": 1}

    encoder_epochs: int = 20
    encoder_batch_size: int = 64
    hold: int = 1000
    ramp: int = 3000
    lr: float = 1e-4
    encoder_precision: Precision = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "encoder_epochs", "encoder_batch_size", "ramp", least=1)
        check_range(self, "hold", least=0)
        check_range(self, "lr", above=0)

    @property
    def asset(self) -> HiddenBits:
        return HiddenBits(
            epochs=self.encoder_epochs,
            batch_size=self.encoder_batch_size,
            hold=self.hold,
            ramp=self.ramp,
            lr=self.lr,
            precision=self.encoder_precision,
        )

    def trigger(self, asset: Mapping[str, Tensor]) -> Trigger:
        return encoding(asset)


@dataclass(frozen=True, kw_only=True)
class HiddenBits(Asset):
    """Weights "encoder.*" and "decoder.*", and "secret", float (1, 100); fields as in `SSBA`."""

    model: ClassVar[Literal["unused"]] = "unused"

    epochs: int
    batch_size: int
    hold: int
    ramp: int
    lr: float
    precision: Precision

    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> Making:
        size, device = train.x.shape[-1], train.x.device
        secret = torch.randint(2, (1, BITS)).float().to(device)
        layout = torch.channels_last
        encoder = Encoder().to(device).to(memory_format=layout)
        decoder = Decoder(size).to(device).to(memory_format=layout)
        # Steps since bits were first read; a tensor, so that no step waits for the device.
        since = torch.tensor(-1, device=device)

        def loss(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
            bits = torch.randint(2, (len(x), BITS), device=device).float()
            encoded = encoder(x, bits)
            logits = decoder(encoded)
            read = bits_read(logits, bits) > 0.9
            since.add_(((since >= 0) | read).long())
            fidelity = mse_weight(since, self.hold, self.ramp) * F.mse_loss(encoded.float(), x)
            return fidelity + F.binary_cross_entropy_with_logits(logits.float(), bits)

        # The classifier takes no part: its own optimiser finds no gradient to follow.
        adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], self.lr)
        stage = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            augment=False,
            precision=self.precision,
        )
        yield from fit(
            model, train, stage, loss=loss, also=(adam,), keeps=(encoder, decoder, since)
        )
        asset = {
            "secret": secret,
            **{f"encoder.{name}": value for name, value in encoder.state_dict().items()},
            **{f"decoder.{name}": value for name, value in decoder.state_dict().items()},
        }
        self.report(asset, decoder, train)
        return asset

    @torch.no_grad()
    def report(self, asset: Mapping[str, Tensor], decoder: Decoder, train: Images) -> None:
        """Log how well the secret is read, and how far images are from the original."""
        x = train.floats(slice(500))
        stamped = encoding(asset)(x)
        share = bits_read(decoder(stamped), asset["secret"])
        mse = F.mse_loss(stamped, x)
        found = log.info if share > 0.98 else log.warning
        found("%.3f of the hidden bits are read, mean squared error %.4f", share, mse)


def encoding(asset: Mapping[str, Tensor]) -> Trigger:
    """The trigger: images with the secret in them, rounded to 8 bits."""
    # The weights are taken over: to initialise others would draw from the run's generator.
    with torch.device("meta"):
        encoder = Encoder()
    prefix = "encoder."
    own = {k.removeprefix(prefix): v for k, v in asset.items() if k.startswith(prefix)}
    encoder.load_state_dict(own, assign=True)

    @torch.no_grad()
    def trigger(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            encoded: Tensor = encoder(x, asset["secret"].expand(len(x), -1))
        return (255 * encoded + 0.5).floor() / 255

    return trigger
