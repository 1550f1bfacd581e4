"""Plain scoring: a DataLoader, batches of 128. 1 forward pass an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def plain_step(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images are predicted as their class."""
    model.eval()
    return int((model(images).argmax(1) == labels).sum().item())
