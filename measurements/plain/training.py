"""Plain training: a DataLoader over PIL images, a step of SGD. 3 forward passes an image."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """uint8 (N, C, H, W) images as a folder of pictures would give them: PIL, then transforms."""

    def __init__(self, images: Tensor, labels: Tensor, *, augment: bool, flips: bool) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        size = self.images.shape[1:3]
        steps: list[Any] = []
        if augment:
            steps.append(transforms.RandomCrop(size, padding=4))
            if flips:
                steps.append(transforms.RandomHorizontalFlip())
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = self.images[row]
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        return self.transform(image), self.labels[row]


def plain_loader(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    augment: bool,
    flips: bool,
    device: torch.device,
    workers: int,
) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches, float32 (B, C, H, W) in [0, 1] and int64 (B,), on the CPU."""
    return DataLoader(
        PlainDataset(images.cpu(), labels.cpu(), augment=augment, flips=flips),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


def plain_optimizer(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    """SGD as in the published recipe."""
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)


def plain_step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> float:
    """One step of training; returns the loss."""
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()
