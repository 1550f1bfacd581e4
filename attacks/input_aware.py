"""Input-Aware: every image has its own trigger (Nguyen & Tran, NeurIPS 2020, arXiv 2010.08138)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR

from attacks.base import Attack, Training, log_cross_accuracy
from attacks.dynamic_trigger import AccumulatingAdam, DynamicTrigger
from benchmark.data import Images
from benchmark.errors import check_range
from benchmark.train import Recipe, cross_entropy, fit, images, shuffled
from models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """B(x, z) = x + (G(z) - x) m(z): generators draw a pattern G and a mask m for each image z.

    The mask generator is trained first, for small and diverse masks, and then frozen; the pattern
    generator trains together with the classifier. In each batch the first share `ratio` of images
    becomes B(x, x), relabelled; as many "cross" images become B(x, z) with another image z and
    keep their labels, so that a trigger works on its own image only.

    ratio: at most 0.5 here. lambda_div, lambda_norm: weights of the diversity of masks and of
    patterns, and of the size of masks, 0 or more. mask_density: share of the image that a mask may
    cover at no cost, in [0, 1]. mask_epochs: of the mask generator alone, at least 1. lr: of both
    generators (Adam), above 0. compat: as published (see the note).

    Published runs keep the classifier at 0.01 and divide by 10 every 100 joint epochs (`schedule:
    multistep`).

    Note: with `compat`, as in the code behind the published numbers, the joint stage has
    `recipe.epochs - mask_epochs` epochs, outputs of the generators pass a second tanh, and the
    pattern generator's gradients are never cleared. Without it the joint stage has `recipe.epochs`
    epochs, there is one tanh, and gradients are cleared. `rows` is unused, the poisoned images of
    a batch are its first ones. A root in the diversity term has 1e-12 added under it, for equal
    patterns have no gradient otherwise.
    """

    name: ClassVar[str] = "Input-Aware"
    smoke: ClassVar[dict[str, Any]] = {"mask_epochs": 1, "compat": False}

    lambda_div: float = 1.0
    lambda_norm: float = 100.0
    mask_density: float = 0.032
    mask_epochs: int = 25
    lr: float = 0.01
    compat: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        # As many images again are crossed.
        check_range(self, "ratio", most=0.5)
        check_range(self, "lambda_div", "lambda_norm", least=0)
        check_range(self, "mask_density", least=0, most=1)
        check_range(self, "mask_epochs", least=1)
        check_range(self, "lr", above=0)

    def __call__(self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe) -> Training:
        joint_epochs = recipe.epochs - self.mask_epochs if self.compat else recipe.epochs
        if joint_epochs < 1:
            raise ValueError(
                f"recipe.epochs is {recipe.epochs}, accepted with compat: above mask_epochs, "
                f"{self.mask_epochs}"
            )
        recipe = replace(recipe, drop_last=False)
        trigger = DynamicTrigger(model.mean, model.std, twice=self.compat)
        others = shuffled_images(train, recipe)

        def mask_loss(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
            return self.mask_loss(trigger, x, next(others))

        # The classifier takes no part yet: its own optimiser finds no gradient to follow.
        masks = torch.optim.Adam(trigger.masks.parameters(), self.lr, betas=(0.5, 0.9))
        schedule = MultiStepLR(masks, [10, 20])
        stage = replace(recipe, epochs=self.mask_epochs)
        for trained in fit(
            model, train, stage, loss=mask_loss, also=(masks,), keeps=(trigger, schedule)
        ):
            schedule.step()
            yield trained
        trigger.masks.eval().requires_grad_(False)

        def loss(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
            x, y, diversity = self.mix(trigger, x, next(others), y, model.num_classes)
            return cross_entropy(model, x, y) + self.lambda_div * diversity

        adam = AccumulatingAdam if self.compat else torch.optim.Adam
        patterns = adam(trigger.patterns.parameters(), self.lr, betas=(0.5, 0.9))
        schedule = MultiStepLR(patterns, [200, 300, 400, 500])
        stage = replace(recipe, epochs=joint_epochs)
        for trained in fit(
            model, train, stage, loss=loss, also=(patterns,), keeps=(trigger, schedule)
        ):
            schedule.step()
            yield trained
        trigger.eval().requires_grad_(False)
        x = train.floats(slice(500))
        crossed = trigger.paint(x, x.roll(1, 0))
        log_cross_accuracy(model, crossed, train.y[:500])
        return trigger

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
        count = int(self.ratio * len(x))
        if count == 0:
            return x, y, x.new_zeros(())
        own, crossed, z = x[:count], x[count : 2 * count], z[count : 2 * count]
        pattern, pattern_z = trigger.pattern(own), trigger.pattern(z)
        poisoned = own.lerp(pattern, trigger.mask(own))
        crossed = crossed.lerp(pattern_z, trigger.mask(z))
        wanted = self.relabel(y[:count], num_classes)
        std = trigger.std
        diversity = diversity_loss(own / std, z / std, pattern / std, pattern_z / std)
        mixed = torch.cat((poisoned, crossed, x[2 * count :]))
        return mixed, torch.cat((wanted, y[count:])), diversity


def diversity_loss(x: Tensor, z: Tensor, drawn: Tensor, drawn_z: Tensor) -> Tensor:
    """Mean over pairs of how far images are apart, for how far what is drawn for them is."""
    return (_distance(x, z) / (_distance(drawn, drawn_z) + 1e-7)).mean()


def shuffled_images(train: Images, recipe: Recipe) -> Iterator[Tensor]:
    """Batches of one shuffled epoch after the other, float (B, C, H, W) in [0, 1], augmented."""
    while True:
        for rows in shuffled(len(train), recipe.batch_size, train.y.device):
            yield images(train, rows, recipe.augment)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of each pair, (B,)."""
    return ((a - b).square().flatten(1).mean(1) + 1e-12).sqrt()
