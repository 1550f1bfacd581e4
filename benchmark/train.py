"""The one training loop. Attacks and defenses differ by a loss closure, not by a loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from sau_bench.benchmark import checkpoint
from sau_bench.benchmark.convolution import small_as_products
from sau_bench.benchmark.data import Images, augment
from sau_bench.benchmark.errors import EPOCHS, IMAGES, check_range

log = logging.getLogger(__name__)

Precision = Literal["fp32", "tf32", "bf16"]


class Batch(NamedTuple):
    """The images of one training step.

    x: float (B, C, H, W) in [0, 1], augmented where the recipe asks for it. y: labels, int64 (B,).
    rows: positions of the images in the training data, int64 (B,), for what a method has computed
    for each image beforehand.
    """

    x: Tensor
    y: Tensor
    rows: Tensor


M = TypeVar("M", bound=nn.Module)
Loss = Callable[[M, Batch], Tensor]
"""(model, batch) -> scalar to minimise."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the defaults are the published recipe of attacks (docs/protocol.md,
    "training recipe").

    epochs: passes over the data, 1 to 100,000. batch_size: images in a step, 1 to 2^31. drop_last:
    leave out the last batch of an epoch if it is smaller than the others. optimizer: "sgd", or
    "adam" with amsgrad and default betas. lr: learning rate at the start, 0 to 1,000. momentum: of
    SGD, in [0, 1). weight_decay: on all parameters, 0 to 1,000. schedule: stepped once an epoch;
    "cosine" anneals to 0 at `period` epochs, "plateau" divides by 10 when the mean training loss
    has not fallen for 10 epochs, "multistep" divides by 10 every `period` epochs. period: of the
    schedule, in epochs, 1 to 100,000; when absent `epochs` of a cosine and 100 of "multistep".
    augment: random crop (4 pixels of zero padding), and flip where the data allows it. batch_norm:
    "frozen" leaves the whole model in evaluation mode, so that statistics neither change nor come
    from the batch; affine parameters train either way. precision: "bf16" and "tf32" round inside
    matrix products and convolutions only.
    """

    epochs: int = 100
    batch_size: int = 128
    drop_last: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine", "plateau", "multistep"] = "cosine"
    period: int | None = None
    augment: bool = True
    batch_norm: Literal["train", "frozen"] = "train"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_range(self, "epochs", "period", least=1, most=EPOCHS)
        check_range(self, "batch_size", least=1, most=IMAGES)
        check_range(self, "lr", "weight_decay", least=0, most=1000)
        check_range(self, "momentum", least=0, below=1)

    def make_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of the recipe for some parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(
                parameters, self.lr, weight_decay=self.weight_decay, amsgrad=True
            )
        return torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def make_schedule(
        self, optimizer: torch.optim.Optimizer
    ) -> lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau:
        """The learning-rate schedule of the recipe, to be stepped once an epoch."""
        match self.schedule:
            case "cosine":
                return lr_scheduler.CosineAnnealingLR(optimizer, self.period or self.epochs)
            case "plateau":
                return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
            case "multistep":
                return lr_scheduler.StepLR(optimizer, self.period or 100, gamma=0.1)
            case "constant":
                return lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the batch: the default loss."""
    return F.cross_entropy(model(batch.x), batch.y)


def fit(
    model: M,
    data: Images,
    recipe: Recipe,
    *,
    loss: Loss[M] = cross_entropy,
    extra_optimizers: Sequence[torch.optim.Optimizer] = (),
    checkpointed: Sequence[checkpoint.Savable] = (),
) -> Iterator[M]:
    """Train in place; yields the model after each epoch.

    Args:
        model: on the data's device. Parameters that require no gradient stay as they are.
        data: n images; each epoch is one shuffle of them, drawn from torch's default generator.
        recipe: how to train.
        loss: the method. It is called once a step and may change the tensors of its batch.
        extra_optimizers: optimizers of further networks that step together with the model's.
        checkpointed: whatever else changes during the training, so that an interrupted attack can
            be resumed: further networks, their schedules, tensors that the loss writes to.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizers = [recipe.make_optimizer(trainable), *extra_optimizers]
    schedule = recipe.make_schedule(optimizers[0])
    stage = checkpoint.enter([model, *optimizers, schedule, *checkpointed], recipe.epochs)
    for epoch in range(stage.epochs + 1, recipe.epochs + 1):
        total = torch.zeros((), device=data.y.device)
        steps = shuffled(len(data), recipe.batch_size, data.y.device, recipe.drop_last)
        for rows in steps:
            model.train(recipe.batch_norm == "train")
            for optimizer in optimizers:
                optimizer.zero_grad()
            # Entered in each step: autocast caches rounded weights until its block ends.
            with precision(recipe.precision, data.y.device):
                value = loss(model, batch(data, rows, recipe.augment))
            value.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += value.detach()
        mean = total.item() / len(steps)
        log.info(
            "epoch %d/%d loss %.4f", epoch, recipe.epochs, mean,
            extra={"epoch": epoch, "epochs": recipe.epochs, "loss": mean},
        )  # fmt: skip
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(mean)
        else:
            schedule.step()
        yield model
        # After the caller's code for the end of the epoch, which may step a schedule.
        stage.save(epoch)
    stage.end()


def train_model(
    model: M,
    data: Images,
    recipe: Recipe,
    *,
    loss: Loss[M] = cross_entropy,
    extra_optimizers: Sequence[torch.optim.Optimizer] = (),
    checkpointed: Sequence[checkpoint.Savable] = (),
) -> None:
    """Train in place to the end of the recipe; arguments as of `fit`."""
    for _ in fit(
        model,
        data,
        recipe,
        loss=loss,
        extra_optimizers=extra_optimizers,
        checkpointed=checkpointed,
    ):
        pass


def shuffled(
    size: int, batch_size: int, device: torch.device, drop_last: bool = False
) -> tuple[Tensor, ...]:
    """Rows of each batch of one shuffled epoch, int64 tensors on the device."""
    batches = torch.randperm(size, device=device).split(batch_size)
    whole = len(batches[-1]) == batch_size or len(batches) == 1
    return batches[:-1] if drop_last and not whole else batches


def batch(data: Images, rows: Tensor, augmented: bool) -> Batch:
    """The images of some rows, int64 (B,), as a batch, augmented if asked."""
    if augmented:
        x = augment(data.x[rows], pad=4, flips=data.flips).float().div_(255)
    else:
        x = data.floats(rows)
    return Batch(x, data.y[rows], rows)


@contextmanager
def precision(kind: Precision, device: torch.device) -> Iterator[None]:
    """Arithmetic of matrix products and convolutions inside the block."""
    bf16 = kind == "bf16"
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = kind != "fp32"
    try:
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=bf16),
            small_as_products(bf16 and device.type == "cpu"),
        ):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
