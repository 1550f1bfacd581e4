"""What the tests of several defenses use."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Images
from sau_bench.models.classifier import Classifier

SAU_RECIPE: dict[str, Any] = {
    "epochs": 1, "batch_size": 50, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0,
    "schedule": "constant", "augment": False, "batch_norm": "frozen",
}  # fmt: skip


def two_layers(seed: int, classes: int = 3) -> nn.Module:
    """A float64 network on 1 x 2 x 3 images."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, classes)).double()
    for parameter in net.parameters():
        parameter.data *= 5
    return net


def noise(*shape: int, classes: int = 10) -> Images:
    x = torch.randint(256, shape, dtype=torch.uint8)
    return Images(x, torch.randint(classes, shape[:1]))


def linear(weight: Tensor, size: int) -> Classifier:
    """A linear classifier of one-channel images, without normalisation."""
    head = nn.Linear(size**2, len(weight))
    head.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    body = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head))
    return Classifier(body, head="head", stages=(), mean=[0.0], std=[1.0])


def batch_norm_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if "running" in name}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}
