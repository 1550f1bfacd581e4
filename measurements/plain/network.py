"""The network as one would write it down: PreAct-ResNet18 (arXiv 1603.05027), in NCHW.

Apart from `models/`, so that whatever makes the product's networks faster is in the ratio.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if stride > 1 or inside != out:
            self.shortcut = nn.Conv2d(inside, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class PlainBody(nn.Module):
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.layer1 = nn.Sequential(PlainBlock(width, width, 1), PlainBlock(width, width, 1))
        for stage in (2, 3, 4):
            out = width * 2 ** (stage - 1)
            blocks = PlainBlock(out // 2, out, 2), PlainBlock(out, out, 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PlainPreActResNet18(nn.Module):
    """Of images in [0, 1]. Parameters have the names of the product's network."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.body = PlainBody(channels, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std)


def plain_network(model: nn.Module) -> nn.Module:
    """The same network, with copies of its weights, in contiguous NCHW.

    model: of images in [0, 1]. What is no PreAct-ResNet18 is copied as it is.
    """
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if "body.layer4.1.bn1.weight" not in state or "body.layer1.2.bn1.weight" in state:
        return copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    width, channels = state["body.conv1.weight"].shape[:2]
    network = PlainPreActResNet18(channels, width, len(state["body.linear.bias"]))
    network.load_state_dict(state)
    return network.to(cast(torch.device, state["mean"].device))
