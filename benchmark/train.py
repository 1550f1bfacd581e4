"""The one training loop. Attacks and defenses differ by a loss closure, not by a loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from benchmark import checkpoint
from benchmark.data import Images, augment
from benchmark.errors import check_range

log = logging.getLogger(__name__)

Precision = Literal["fp32", "tf32", "bf16"]

M = TypeVar("M", bound=nn.Module)
Loss = Callable[[M, Tensor, Tensor], Tensor]
"""(model, images in [0, 1] as float (B, C, H, W), labels int64 (B,)) -> scalar to minimise."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the defaults are the field's attack recipe (protocol.md, section 5).

    epochs: passes over the data. batch_size: images in a step. drop_last: leave out the rest that
    does not fill a batch. optimizer: "sgd", or "adam" with amsgrad and default betas. lr: learning
    rate at the start. momentum: of SGD. weight_decay: on all parameters. schedule: stepped once an
    epoch; "cosine" anneals to 0 at `period` epochs (`epochs` when absent), "plateau" divides by 10
    when the mean training loss has not fallen for 10 epochs, "multistep" divides by 10 every
    `period` epochs (100 when absent). augment: random crop (4 pixels of zero padding), and flip
    where the data allows it. batch_norm: "frozen" keeps the whole model in evaluation mode, so
    that statistics neither change nor come from the batch; affine parameters train either way.
    precision: "bf16" and "tf32" round inside matrix products and convolutions only.
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
        check_range(self, "epochs", "batch_size", least=1)
        check_range(self, "lr", "weight_decay", least=0)
        check_range(self, "momentum", least=0, below=1)
        check_range(self, "period", least=1)

    def optimize(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(
                parameters, self.lr, weight_decay=self.weight_decay, amsgrad=True
            )
        return torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def anneal(
        self, optimizer: torch.optim.Optimizer
    ) -> lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau:
        match self.schedule:
            case "cosine":
                return lr_scheduler.CosineAnnealingLR(optimizer, self.period or self.epochs)
            case "plateau":
                return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
            case "multistep":
                return lr_scheduler.StepLR(optimizer, self.period or 100, gamma=0.1)
            case "constant":
                return lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the batch: the default loss."""
    return F.cross_entropy(model(x), y)


def fit(
    model: M,
    data: Images,
    recipe: Recipe,
    *,
    loss: Loss[M] = cross_entropy,
    also: Sequence[torch.optim.Optimizer] = (),
    keeps: Sequence[checkpoint.Kept] = (),
    additive: bool = False,
) -> Iterator[M]:
    """Train in place; yields the model after each epoch.

    Args:
        model: on the data's device. Parameters that require no gradient stay as they are.
        data: n images; each epoch is one shuffle of them, drawn from torch's default generator.
        loss: the method. It is called once a step and may change the batch it is given.
        also: optimisers of further networks that step together with the model's own.
        keeps: whatever else changes from epoch to epoch, so that an interrupted attack can go on:
            further networks, their schedules, tensors that the loss writes to.
        additive: whether the loss of a batch is the mean of what it is for each image alone, but
            for batch statistics. With frozen ones a batch may then be split (`micro_batches`).
    """
    parts = _parts.get() if additive and recipe.batch_norm == "frozen" else 1
    optimizers = [recipe.optimize([p for p in model.parameters() if p.requires_grad]), *also]
    schedule = recipe.anneal(optimizers[0])
    stage = checkpoint.enter([model, *optimizers, schedule, *keeps])
    for epoch in range(stage.epochs + 1, recipe.epochs + 1):
        total = torch.zeros((), device=data.y.device)
        batches = shuffled(len(data), recipe.batch_size, data.y.device, recipe.drop_last)
        for rows in batches:
            model.train(recipe.batch_norm == "train")
            for optimizer in optimizers:
                optimizer.zero_grad()
            x, y = images(data, rows, recipe.augment), data.y[rows]
            for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
                # Entered anew each time: autocast keeps rounded weights until its block ends.
                with precision(recipe.precision, data.y.device):
                    value = loss(model, x_part, y_part) * (len(y_part) / len(y))
                value.backward()
                total += value.detach()
            for optimizer in optimizers:
                optimizer.step()
        mean = total.item() / len(batches)
        log.info(
            "epoch %d/%d loss %.4f", epoch, recipe.epochs, mean,
            extra={"epoch": epoch, "epochs": recipe.epochs, "loss": mean},
        )  # fmt: skip
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(mean)
        else:
            schedule.step()
        yield model
        # After the caller's own end of the epoch, which may step a schedule of its own.
        stage.save(epoch)
    stage.end()


def shuffled(
    size: int, batch_size: int, device: torch.device, drop_last: bool = False
) -> tuple[Tensor, ...]:
    """Rows of each batch of one shuffled epoch, int64 tensors on the device."""
    batches = torch.randperm(size, device=device).split(batch_size)
    whole = len(batches[-1]) == batch_size or len(batches) == 1
    return batches[:-1] if drop_last and not whole else batches


def images(data: Images, rows: Tensor, augmented: bool) -> Tensor:
    """One batch as float (B, C, H, W) in [0, 1], augmented if asked."""
    if not augmented:
        return data.floats(rows)
    return augment(data.x[rows], pad=4, flips=data.flips).float().div_(255)


_parts: ContextVar[int] = ContextVar("micro_batches", default=1)


@contextmanager
def micro_batches(parts: int) -> Iterator[None]:
    """Inside the block, batches that may be split are, to save memory; the gradient is the same."""
    token = _parts.set(parts)
    try:
        yield
    finally:
        _parts.reset(token)


@contextmanager
def precision(kind: Precision, device: torch.device) -> Iterator[None]:
    """Arithmetic of matrix products and convolutions inside the block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = kind != "fp32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
