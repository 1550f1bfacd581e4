"""VGG19 (Simonyan & Zisserman, ICLR 2015, arXiv 1409.1556) with the three linear layers of
torchvision's definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import check_range
from sau_bench.models.classifier import Architecture, Classifier

BLOCKS = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))
"""Convolutions of each block, and its channels in units of the width."""


@dataclass(frozen=True, kw_only=True)
class VGG19(Architecture):
    """Sixteen convolutions in five blocks, each halved by pooling; maps adapted to 7 x 7; three
    linear layers with dropout of 0.5 between them.

    Of 32 x 32 images the last maps are single pixels, which the adaption repeats 49 times
    (docs/protocol.md, "architectures"). Weights start as in torchvision: He's normal of the
    outputs for convolutions, deviation 0.01 for linear layers, biases 0.

    batch_norm: a batch norm after each convolution (VGG19-BN of later publications); the network
    of the SAU paper has none. width: channels of the first block, 1 to 1,024; 64 gives the
    published network (139.6 M parameters at 10 classes, 4,096 units in the hidden linear layers),
    16 a narrow one for small machines (8.7 M, 1,024 units).

    Note: at widths other than 64 the deviation of the linear layers is 0.01 sqrt(64 / width), so
    that a narrow network starts with logits of the same size; without batch norm it would hardly
    leave its start otherwise.
    """

    name: ClassVar[str] = "VGG19"
    argument: ClassVar[str] = "width"
    smoke: ClassVar[dict[str, Any]] = {"width": 4, "batch_norm": True}

    batch_norm: bool = False
    width: int = 64

    def __post_init__(self) -> None:
        check_range(self, "width", least=1, most=1024)

    @property
    def label(self) -> str:
        name = f"{self.name}-BN" if self.batch_norm else self.name
        return name if self.width == 64 else f"{name} (width {self.width})"

    def check(self, dataset: Dataset) -> None:
        if min(dataset.shape[1:]) < 32:
            raise ValueError(
                f"images are {'x'.join(map(str, dataset.shape))}, accepted: height and width of "
                "at least 32, which five poolings halve"
            )

    def __call__(self, dataset: Dataset) -> Classifier:
        body = _Body(dataset.shape[0], self.width, dataset.num_classes, self.batch_norm)
        return Classifier(
            body,
            head="classifier.6",
            stages=("block1", "block2", "block3", "block4", "block5", "avgpool"),
            mean=dataset.mean,
            std=dataset.std,
            classifier="classifier",
        )


class _Body(nn.Module):
    def __init__(self, channels: int, width: int, num_classes: int, batch_norm: bool) -> None:
        super().__init__()
        inside = channels
        for number, (convolutions, factor) in enumerate(BLOCKS, start=1):
            block = nn.Sequential()
            for _ in range(convolutions):
                block.append(nn.Conv2d(inside, factor * width, 3, padding=1))
                if batch_norm:
                    block.append(nn.BatchNorm2d(factor * width))
                block.append(nn.ReLU(inplace=True))
                inside = factor * width
            block.append(nn.MaxPool2d(2))
            self.add_module(f"block{number}", block)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = 64 * width
        self.classifier = nn.Sequential(
            nn.Linear(49 * inside, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01 * (64 / width) ** 0.5)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, len(BLOCKS) + 1):
            x = self.get_submodule(f"block{number}")(x)
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits
