"""Input-Aware: every image has its own trigger (Nguyen & Tran, NeurIPS 2020, arXiv 2010.08138)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR

from sau_bench.attacks.base import Attack, Tensors, Trigger, log_cross_accuracy, poisoned_count
from sau_bench.benchmark.data import Dataset, Images, to_uint8
from sau_bench.benchmark.errors import EPOCHS, check_range
from sau_bench.benchmark.train import Batch, Loss, Recipe, batch, cross_entropy, fit, shuffled
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """B(x, z) = x + (G(z) - x) m(z): generators draw a pattern G and a mask m for each image z.

    The mask generator is trained first, for small and diverse masks, and then frozen; the pattern
    generator trains together with the classifier. In each batch the first share `ratio` of images
    becomes B(x, x), relabelled; as many "cross" images become B(x, z) with another image z, with
    unchanged labels, so that a trigger works on one image only.

    ratio: poisoned share of each batch, above 0 and at most 0.5; a batch too small for one poisoned
    image has one with probability ratio * size. lambda_div: weight of the diversity of masks and of
    patterns, 0 or more. lambda_norm: weight of the size of masks, 0 or more. mask_density: share of
    the image that a mask may cover at no cost, in [0, 1]. mask_epochs: of the mask generator alone,
    1 to 100,000. lr: of both generators (Adam), above 0 and at most 1,000. as_published: as in the
    code behind the published cells, the joint stage has `recipe.epochs - mask_epochs` epochs,
    outputs of the generators pass a second tanh, and the gradients of the pattern generator are
    never cleared; if false (the paper), the joint stage has `recipe.epochs` epochs, there is one
    tanh, and gradients are cleared.

    Published runs train the classifier at 0.01 and divide by 10 every 100 joint epochs (`schedule:
    multistep`).

    Note: `rows` is unused, the poisoned images of a batch are its first ones. A root in the
    diversity term has 1e-12 added under it, for equal patterns have no gradient otherwise. Test
    images are triggered as pixels, so they keep the level of 255 that published images lose in a
    normalisation round trip.
    """

    name: ClassVar[str] = "Input-Aware"
    smoke: ClassVar[dict[str, Any]] = {"mask_epochs": 1, "as_published": False}

    lambda_div: float = 1.0
    lambda_norm: float = 100.0
    mask_density: float = 0.032
    mask_epochs: int = 25
    lr: float = 0.01
    as_published: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        # As many images again are crossed.
        check_range(self, "ratio", most=0.5)
        check_range(self, "lambda_div", "lambda_norm", least=0)
        check_range(self, "mask_density", least=0, most=1)
        check_range(self, "mask_epochs", least=1, most=EPOCHS)
        check_range(self, "lr", above=0, most=1000)

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        self.joint_epochs(recipe)
        generator_widths(dataset.shape[1], dataset.shape[2])

    def joint_epochs(self, recipe: Recipe) -> int:
        """Epochs of the stage that trains the classifier.

        Raises:
            ValueError: the recipe leaves none.
        """
        epochs = recipe.epochs - self.mask_epochs if self.as_published else recipe.epochs
        if epochs < 1:
            raise ValueError(
                f"recipe.epochs is {recipe.epochs}, accepted with as_published: above "
                f"mask_epochs, {self.mask_epochs}"
            )
        return epochs

    def __call__(
        self,
        model: Classifier,
        train: Images,
        rows: Tensor,
        recipe: Recipe,
        asset: Tensors,
        loss: Loss[Classifier] = cross_entropy,
    ) -> Trigger:
        joint_epochs = self.joint_epochs(recipe)
        recipe = replace(recipe, drop_last=False)
        widths = generator_widths(train.x.shape[2], train.x.shape[3])
        trigger = DynamicTrigger(model.mean, model.std, widths, twice=self.as_published)
        others = shuffled_images(train, recipe)

        def mask_loss(model: Classifier, batch: Batch) -> Tensor:
            return self.mask_loss(trigger, batch.x, next(others))

        # The classifier takes no part: parameters without a gradient are not updated.
        masks = torch.optim.Adam(trigger.masks.parameters(), self.lr, betas=(0.5, 0.9))
        schedule = MultiStepLR(masks, [10, 20])
        for _ in fit(
            model,
            train,
            replace(recipe, epochs=self.mask_epochs),
            loss=mask_loss,
            extra_optimizers=(masks,),
            checkpointed=(trigger, schedule),
        ):
            schedule.step()
        trigger.masks.eval().requires_grad_(False)

        def joint_loss(model: Classifier, batch: Batch) -> Tensor:
            x, y, diversity = self.mix(trigger, batch.x, next(others), batch.y, model.num_classes)
            return loss(model, Batch(x, y, batch.rows)) + self.lambda_div * diversity

        adam = AccumulatingAdam if self.as_published else torch.optim.Adam
        patterns = adam(trigger.patterns.parameters(), self.lr, betas=(0.5, 0.9))
        schedule = MultiStepLR(patterns, [200, 300, 400, 500])
        for _ in fit(
            model,
            train,
            replace(recipe, epochs=joint_epochs),
            loss=joint_loss,
            extra_optimizers=(patterns,),
            checkpointed=(trigger, schedule),
        ):
            schedule.step()
        trigger.eval().requires_grad_(False)
        x = train.floats(slice(500))
        crossed = trigger.paint(x, x.roll(1, 0))
        log_cross_accuracy(model, crossed, train.y[:500])
        return trigger

    @torch.no_grad()
    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        """In each batch the first images triggered and relabelled, as many after them crossed."""
        assert isinstance(trigger, DynamicTrigger)
        x, y = train.x.clone(), train.y.clone()
        others = torch.randperm(len(train), device=y.device).split(batch_size)
        for part, other in zip(
            torch.arange(len(train), device=y.device).split(batch_size), others, strict=True
        ):
            count = self.count(len(part))
            if count == 0:
                continue
            poisoned, crossed, z = part[:count], part[count : 2 * count], other[count : 2 * count]
            x[poisoned] = to_uint8(trigger(train.floats(poisoned)))
            x[crossed] = to_uint8(trigger.paint(train.floats(crossed), train.floats(z)))
            y[poisoned] = self.relabel(train.y[poisoned], num_classes)
        return replace(train, x=x, y=y)

    def count(self, size: int) -> int:
        """How many images of a batch of `size` are poisoned, and how many crossed."""
        # A batch of one image has no room for a crossed one.
        return min(poisoned_count(self.ratio, size), size // 2)

    def mask_loss(self, trigger: DynamicTrigger, x: Tensor, z: Tensor) -> Tensor:
        """What the mask generator minimises on images x and other images z, a scalar."""
        mask, mask_z = trigger.mask(x), trigger.mask(z)
        diversity = diversity_loss(x / trigger.std, z / trigger.std, mask, mask_z)
        return self.lambda_norm * (mask - self.mask_density).relu().mean() + diversity

    def mix(
        self, trigger: DynamicTrigger, x: Tensor, z: Tensor, y: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A batch with its first images poisoned, as many crossed after them, the rest clean.

        z: as many other images, whose triggers the crossed ones carry. Returns the batch, its
        labels and the diversity loss of the patterns, a scalar.
        """
        count = self.count(len(x))
        if count == 0:
            return x, y, x.new_zeros(())
        first, crossed, z = x[:count], x[count : 2 * count], z[count : 2 * count]
        pattern, pattern_z = trigger.pattern(first), trigger.pattern(z)
        poisoned = first.lerp(pattern, trigger.mask(first))
        crossed = crossed.lerp(pattern_z, trigger.mask(z))
        wanted = self.relabel(y[:count], num_classes)
        std = trigger.std
        diversity = diversity_loss(first / std, z / std, pattern / std, pattern_z / std)
        mixed = torch.cat((poisoned, crossed, x[2 * count :]))
        return mixed, torch.cat((wanted, y[count:])), diversity


def diversity_loss(x: Tensor, z: Tensor, drawn: Tensor, drawn_z: Tensor) -> Tensor:
    """Mean over pairs of the distance of two images over that of what is drawn for them.

    All float (B, C, H, W); a mask has one channel.
    """
    return (_distance(x, z) / (_distance(drawn, drawn_z) + 1e-7)).mean()


def shuffled_images(train: Images, recipe: Recipe) -> Iterator[Tensor]:
    """Batches of one shuffled epoch after the other, float (B, C, H, W) in [0, 1], augmented."""
    while True:
        for rows in shuffled(len(train), recipe.batch_size, train.y.device):
            yield batch(train, rows, recipe.augment).x


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of each pair, (B,)."""
    return ((a - b).square().flatten(1).mean(1) + 1e-12).sqrt()


class DynamicTrigger(nn.Module):
    """Paints every image with the pattern and the mask that generators draw for it.

    mean, std: of the dataset, (1, C, 1, 1); generators see normalised images. widths, twice: see
    `Generator`. Everything runs in fp32, inside autocast as well.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, widths: tuple[int, ...], *, twice: bool) -> None:
        super().__init__()
        channels = mean.shape[1]
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.masks = Generator(channels, 1, widths, twice=twice).to(mean.device)
        self.patterns = Generator(channels, channels, widths, twice=twice).to(mean.device)

    def mask(self, x: Tensor) -> Tensor:
        """How much of each pixel is painted over, (B, 1, H, W) in (0, 1), near either end."""
        with torch.autocast(x.device.type, enabled=False):
            return threshold(self.masks((x - self.mean) / self.std))

    def pattern(self, x: Tensor) -> Tensor:
        """What is painted, (B, C, H, W) in (0, 1)."""
        with torch.autocast(x.device.type, enabled=False):
            painted: Tensor = self.patterns((x - self.mean) / self.std)
            return painted

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Each image with its own trigger; x: float (B, C, H, W) in [0, 1]."""
        return self.paint(x, x)

    def paint(self, x: Tensor, z: Tensor) -> Tensor:
        """Each image x with the trigger of z; float (B, C, H, W) in [0, 1] both."""
        return x.lerp(self.pattern(z), self.mask(z))


class Generator(nn.Sequential):
    """An encoder and decoder without skips: normalised (B, C, H, W) -> (B, out, H, W) in (0, 1).

    widths: channels after each halving of H and W, see `generator_widths`. twice: a second tanh
    before the output, which then stays in (0.119, 0.881), as in the code behind the published
    cells.
    """

    def __init__(self, channels: int, out: int, widths: tuple[int, ...], *, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        for width in widths:
            self.extend([*_block(channels, width), *_block(width, width), nn.MaxPool2d(2)])
            channels = width
        self.extend(_block(channels, channels))
        for width in (*widths[-2::-1], out):
            self.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.extend([*_block(channels, channels), *_block(channels, width)])
            channels = width
        # The last block ends with its batch norm.
        self.pop(-1)

    def forward(self, x: Tensor) -> Tensor:
        raw: Tensor = super().forward(x)
        return _squash(raw.tanh() if self.twice else raw)


def generator_widths(height: int, width: int) -> tuple[int, ...]:
    """Channels of a generator's stages for images of a size: three halvings, or two as for MNIST.

    Raises:
        ValueError: a side is no multiple of 4.
    """
    if height % 8 == width % 8 == 0:
        return (32, 64, 128)
    if height % 4 or width % 4:
        raise ValueError(
            f"images are {height} x {width}, accepted: height and width multiples of 4"
        )
    return (16, 32)


def threshold(mask: Tensor) -> Tensor:
    """A mask pushed towards 0 and 1, softly around one half."""
    return _squash(20 * mask - 10)


class AccumulatingAdam(torch.optim.Adam):
    """Adam on the sum of all gradients so far, which a checkpoint therefore has to hold."""

    def state_dict(self) -> dict[str, Any]:
        sums = [p.grad for group in self.param_groups for p in group["params"]]
        return {"adam": super().state_dict(), "sums": sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict["adam"])
        parameters = (p for group in self.param_groups for p in group["params"])
        for parameter, total in zip(parameters, state_dict["sums"], strict=True):
            parameter.grad = None if total is None else total.to(parameter.device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is cleared between steps."""


def _squash(raw: Tensor) -> Tensor:
    return raw.tanh() / (2 + 1e-7) + 0.5


def _block(channels: int, out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out, 3, padding=1),
        nn.BatchNorm2d(out, momentum=0.05),
        nn.ReLU(),
    ]
