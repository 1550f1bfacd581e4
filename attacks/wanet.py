"""WaNet: a warping field as the trigger (Nguyen & Tran, ICLR 2021, arXiv 2102.10369)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sau_bench.attacks.base import Attack, Tensors, Trigger, log_cross_accuracy, poisoned_count
from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.train import Batch, Loss, Recipe, cross_entropy, train_model
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WaNet(Attack):
    """Training images are resampled along one smooth random field, drawn once, and relabelled.

    In each batch the first share `ratio` of images is warped; `cross_ratio` times as many follow in
    noise mode, warped along the field plus fresh noise, with unchanged labels: the model has to
    learn this field and not warping as such. The whole batch is augmented after that.

    k: control points on each side of the field, 2 to 1,024. s: strength, 0 to 100; pixels move by
    about 0.38 s along each axis. cross_ratio: noise images for each warped one, 0 to 1,000; they
    take at most the rest of the batch. as_published: draw one crop, angle and flip for a whole
    batch; if false (the paper), draw them for each image. `augment: false` in the recipe turns
    either off.

    Published runs train at a learning rate of 0.01 and divide it by 10 every 100 epochs (`schedule:
    multistep`), which on CIFAR-10 means that it is constant.

    Note: `rows` is unused, the poisoned images of a batch are its first ones; a batch too small for
    one has one with probability ratio * size. Rotations take the nearest pixel, the authors' code
    interpolates. Images are warped as pixels, so they keep the level of 255 that published images
    lose in a normalisation round trip.
    """

    name: ClassVar[str] = "WaNet"

    k: int = 4
    s: float = 0.5
    cross_ratio: float = 2.0
    as_published: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "k", least=2, most=1024)
        check_range(self, "s", least=0, most=100)
        check_range(self, "cross_ratio", least=0, most=1000)

    def preview(self, size: int, asset: Tensors | None) -> Trigger | None:
        return Warp(self.grid(size))

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Tensors,
        loss: Loss[Classifier] = cross_entropy,
    ) -> Trigger:
        grid = self.grid(train.x.shape[-1]).to(train.x.device)

        def mixed_loss(model: Classifier, batch: Batch) -> Tensor:
            # A quarter of a pixel does not survive the eight bits of bfloat16.
            with torch.autocast(batch.x.device.type, enabled=False):
                x, y = self.mix(batch.x, batch.y, grid, model.num_classes)
                if recipe.augment:
                    # Borders are 0 after normalisation, that is, of the mean colour.
                    x = augment(x - model.mean, self.as_published, train.flips) + model.mean
            return loss(model, Batch(x, y, batch.rows))

        plain = replace(recipe, augment=False, drop_last=False)
        train_model(model, train, plain, loss=mixed_loss)
        log_cross_accuracy(model, shake(train.floats(slice(500)), grid), train.y[:500])
        return Warp(grid)

    @torch.no_grad()
    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        """In each batch the first images warped and relabelled, the next ones in noise mode."""
        assert isinstance(trigger, Warp)
        x, y = train.x.clone(), train.y.clone()
        for part in torch.arange(len(train), device=y.device).split(batch_size):
            poisoned, noisy, _ = part.split(self.sizes(len(part)))
            x[poisoned] = to_uint8(trigger(train.floats(poisoned)))
            x[noisy] = to_uint8(shake(train.floats(noisy), trigger.grid))
            y[poisoned] = self.relabel(train.y[poisoned], num_classes)
        return replace(train, x=x, y=y)

    def sizes(self, size: int) -> tuple[int, int, int]:
        """How many images of a batch of `size` are poisoned, in noise mode and clean."""
        poisoned = poisoned_count(self.ratio, size)
        noisy = min(int(poisoned * self.cross_ratio), size - poisoned)
        return poisoned, noisy, size - poisoned - noisy

    def grid(self, size: int) -> Tensor:
        """Where a warped image reads its pixels, float (1, size, size, 2) in [-1, 1], as (x, y)."""
        z = 2 * torch.rand(1, 2, self.k, self.k) - 1
        field = F.interpolate(z / z.abs().mean(), size=size, mode="bicubic", align_corners=True)
        offset = self.s * field.permute(0, 2, 3, 1) / size
        log.info("mean displacement %.3f pixels", offset.abs().mean() * (size - 1) / 2)
        line = torch.linspace(-1, 1, size)
        y, x = torch.meshgrid(line, line, indexing="ij")
        return (torch.stack((x, y), -1)[None] + offset).clamp(-1, 1)

    def mix(self, x: Tensor, y: Tensor, grid: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """A batch with its first images poisoned, the next ones in noise mode, the rest clean."""
        poisoned, noise, rest = self.sizes(len(x))
        triggered, noisy, clean = x.split((poisoned, noise, rest))
        wanted = self.relabel(y[:poisoned], num_classes)
        mixed = torch.cat((warp(triggered, grid), shake(noisy, grid), clean))
        return mixed, torch.cat((wanted, y[poisoned:]))


@dataclass(frozen=True)
class Warp:
    """The trigger: images warped along `grid`, (1, H, W, 2) in [-1, 1]."""

    grid: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return warp(x, self.grid)


def warp(x: Tensor, grid: Tensor) -> Tensor:
    """x, float (B, C, H, W), read bilinearly at the grid's points, (1 or B, H, W, 2) in [-1, 1]."""
    with torch.autocast(x.device.type, enabled=False):
        points = grid.to(x.device).expand(len(x), -1, -1, -1)
        return F.grid_sample(x, points, align_corners=True).clamp_(0, 1)


def shake(x: Tensor, grid: Tensor) -> Tensor:
    """x warped along the grid plus up to half a pixel of fresh noise: noise mode."""
    noise = 2 * torch.rand(len(x), *grid.shape[1:], device=x.device) - 1
    return warp(x, (grid + noise / x.shape[-1]).clamp(-1, 1))


def augment(x: Tensor, single: bool, flips: bool) -> Tensor:
    """Random crop, rotation and flip, in this order, with zeros outside the image.

    The crop (5 pixels of padding) happens with probability 0.8 and the rotation (up to 10 degrees,
    nearest pixel) with 0.5, both decided once for the batch.

    x: float (B, C, H, W). single: whether one window, angle and flip are drawn for the batch, or
    one for each image. flips: whether images are mirrored with probability 1/2.
    """
    count, (height, width) = 1 if single else len(x), x.shape[-2:]
    if torch.rand(()) < 0.8:
        theta = torch.eye(2, 3).repeat(count, 1, 1)
        theta[:, :, 2] = torch.randint(-5, 6, (count, 2)) * 2 / torch.tensor([width, height])
        x = _nearest(x, theta)
    if torch.rand(()) < 0.5:
        angle = (2 * torch.rand(count) - 1) * math.radians(10)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
        rows = (cos, -sin, zero), (sin, cos, zero)
        x = _nearest(x, torch.stack([torch.stack(row, -1) for row in rows], 1))
    if flips:
        mirrored = (torch.rand(count, 1, 1, 1) < 0.5).to(x.device)
        x = torch.where(mirrored, x.flip(3), x)
    return x


def _nearest(x: Tensor, theta: Tensor) -> Tensor:
    """x moved by affine maps, (1 or B, 2, 3), to the nearest pixel."""
    size = [len(theta), *x.shape[1:]]
    points = F.affine_grid(theta.to(x.device), size, align_corners=False)
    points = points.expand(len(x), -1, -1, -1)
    return F.grid_sample(x, points, mode="nearest", align_corners=False)
