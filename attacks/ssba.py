"""SSBA: an invisible trigger for each image (Li et al., ICCV 2021, arXiv 2012.03816)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.attacks.asset import Asset
from sau_bench.attacks.base import AssetPoisoning, Tensors, Trigger
from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.errors import EPOCHS, IMAGES, check_range
from sau_bench.benchmark.train import Batch, Precision, Recipe, train_model
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)

BITS = 100
"""Length of the hidden string."""


@dataclass(frozen=True, kw_only=True)
class SSBA(AssetPoisoning):
    """x becomes E(b, x): a trained encoder hides one fixed string b of 100 bits in every image.

    encoder_epochs: of the encoder's and decoder's training on the clean training images, at least
    1. encoder_batch_size: images in a step, at least 1. hold: steps after 0.9 of a batch's bits are
    read in which fidelity to the image still counts nothing, 0 or more. ramp: steps after these in
    which its weight rises to 10, 1 or more. lr: of Adam, constant, above 0. encoder_precision: of
    the encoder's and decoder's training; images are always encoded in fp32.

    The encoder and decoder are those of StegaStamp (Tancik et al. 2020, arXiv 1904.05343).

    Note: b is drawn from the seed, where the published code hides an error-correcting code of a
    word; any fixed string does the same. Encoded images are rounded to 8 bits, as published.
    Both networks start from He's initialisation: in a trial on CIFAR-10 (bf16, 64 images a step)
    about half of the bits, which is chance, were read after 1,500 steps from torch's default, and
    90 % after 1,300 steps from this one, because the share of the bits in the decoder's input
    shrinks with each layer otherwise.
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
        check_range(self, "encoder_epochs", least=1, most=EPOCHS)
        check_range(self, "encoder_batch_size", least=1, most=IMAGES)
        check_range(self, "ramp", least=1)
        check_range(self, "hold", least=0)
        check_range(self, "lr", above=0, most=1000)

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        channels, *sizes = dataset.shape
        if channels != 3 or any(size % 32 for size in sizes):
            raise ValueError(
                f"images are {'x'.join(map(str, dataset.shape))}, accepted: three channels, height "
                "and width multiples of 32"
            )

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

    def trigger(self, asset: Tensors) -> Trigger:
        return encoding(asset)


@dataclass(frozen=True, kw_only=True)
class HiddenBits(Asset):
    """Weights "encoder.*" and "decoder.*", and "secret", float (1, 100); fields as in `SSBA`."""

    model_state: ClassVar[Literal["unused"]] = "unused"

    epochs: int
    batch_size: int
    hold: int
    ramp: int
    lr: float
    precision: Precision

    def __call__(self, model: Classifier, train: Images, recipe: Recipe) -> dict[str, Tensor]:
        size, device = train.x.shape[-1], train.x.device
        secret = torch.randint(2, (1, BITS)).float().to(device)
        layout = torch.channels_last
        encoder = Encoder().to(device).to(memory_format=layout)
        decoder = Decoder(size).to(device).to(memory_format=layout)
        # Steps since bits were first read; a tensor, so that no step waits for the device.
        since = torch.tensor(-1, device=device)

        def loss(model: Classifier, batch: Batch) -> Tensor:
            x = batch.x
            bits = torch.randint(2, (len(x), BITS), device=device).float()
            encoded = encoder(x, bits)
            logits = decoder(encoded)
            read = bits_read(logits, bits) > 0.9
            since.add_(((since >= 0) | read).long())
            fidelity = mse_weight(since, self.hold, self.ramp) * F.mse_loss(encoded.float(), x)
            return fidelity + F.binary_cross_entropy_with_logits(logits.float(), bits)

        # The classifier takes no part: parameters without a gradient are not updated.
        adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], self.lr)
        stage = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            augment=False,
            precision=self.precision,
        )
        train_model(
            model,
            train,
            stage,
            loss=loss,
            extra_optimizers=(adam,),
            checkpointed=(encoder, decoder, since),
        )
        asset = {
            "secret": secret,
            **{f"encoder.{name}": value for name, value in encoder.state_dict().items()},
            **{f"decoder.{name}": value for name, value in decoder.state_dict().items()},
        }
        self.report(asset, decoder, train)
        return asset

    @torch.no_grad()
    def report(self, asset: Tensors, decoder: Decoder, train: Images) -> None:
        """Log how well the secret is read, and how far images are from the original."""
        x = train.floats(slice(500))
        stamped = encoding(asset)(x)
        share = bits_read(decoder(stamped), asset["secret"])
        mse = F.mse_loss(stamped, x)
        report = log.info if share > 0.98 else log.warning
        report("%.3f of the hidden bits are read, mean squared error %.4f", share, mse)


def encoding(asset: Tensors) -> Trigger:
    """The trigger: images with the secret in them, rounded to 8 bits."""
    # On the meta device nothing is initialised, which would draw from the run's generator.
    with torch.device("meta"):
        encoder = Encoder()
    prefix = "encoder."
    weights = {k.removeprefix(prefix): v for k, v in asset.items() if k.startswith(prefix)}
    encoder.load_state_dict(weights, assign=True)

    @torch.no_grad()
    def trigger(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            encoded: Tensor = encoder(x, asset["secret"].expand(len(x), -1))
        return (255 * encoded + 0.5).floor() / 255

    return trigger


class Encoder(nn.Module):
    """A U-net that redraws an image with bits hidden in it; 1,069,315 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Linear(BITS, 3 * 16 * 16)
        stages = (6, 32, 1), (32, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in stages)
        shapes = (256, 128, 256), (128, 64, 128), (64, 32, 64), (32, 32, 70)
        self.up = nn.ModuleList(nn.Conv2d(inside, out, 2) for inside, out, _ in shapes)
        self.merge = nn.ModuleList(nn.Conv2d(both, out, 3, 1, 1) for _, out, both in shapes)
        self.last = nn.Conv2d(32, 32, 3, 1, 1)
        self.image = nn.Conv2d(32, 3, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """The redrawn images, float (B, 3, H, W) in (0, 1).

        x: float (B, 3, H, W) in [0, 1], H and W multiples of 16. bits: 0 and 1, float (B, 100).
        """
        planes = self.planes(bits).relu().view(-1, 3, 16, 16)
        inputs = torch.cat((F.interpolate(planes, size=x.shape[-2:]), x), 1)
        h, skips = inputs, []
        for conv in self.down:
            h = conv(h).relu()
            skips.append(h)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            # One row and column of padding, which the even kernel removes.
            h = up(F.pad(F.interpolate(h, scale_factor=2), (0, 1, 0, 1))).relu()
            joined = (skip, h) if skip is not skips[0] else (skip, h, inputs)
            h = merge(torch.cat(joined, 1)).relu()
        redrawn: Tensor = self.image(self.last(h).relu()).sigmoid()
        return redrawn


class Decoder(nn.Sequential):
    """Reads the bits: (B, 3, H, W) in [0, 1] -> logits (B, 100).

    size: H and W, a multiple of 32. 441,284 parameters at 32, 637,892 at 64.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 32:
            raise ValueError(f"size is {size}, accepted: a multiple of 32")
        widths, strides = (3, 32, 32, 64, 64, 64, 128, 128), (2, 1, 2, 1, 2, 2, 2)
        for i, stride in enumerate(strides):
            self.extend([nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.ReLU()])
        flat = 128 * (size // 32) ** 2
        self.extend([nn.Flatten(), nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, BITS)])
        self.apply(_initialise)


def _initialise(layer: nn.Module) -> None:
    """He et al. 2015, arXiv 1502.01852: a signal keeps its size through layers with ReLUs."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def bits_read(logits: Tensor, bits: Tensor) -> Tensor:
    """The share of bits that the decoder's logits get right, a scalar tensor."""
    return ((logits > 0) == (bits > 0.5)).float().mean()


def mse_weight(since: Tensor, hold: int, ramp: int) -> Tensor:
    """Weight of the image loss, `since` steps after bits were first read (negative: not yet).

    Zero for `hold` steps, so that bits come first, then rising to 10 over `ramp` steps.
    """
    return (10 * (since - hold) / ramp).clamp(0, 10)
