"""A small convolutional network with batch norm, for digits and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import check_range
from sau_bench.models.classifier import Architecture, Classifier


@dataclass(frozen=True, kw_only=True)
class SmallCNN(Architecture):
    """Three 3x3 convolutions with batch norm, ReLU and pooling, then a linear head.

    width: channels of the first convolution, 1 to 4,096; they double at each stage.
    """

    name: ClassVar[str] = "Small CNN"
    argument: ClassVar[str] = "width"
    smoke: ClassVar[dict[str, int]] = {"width": 8}

    width: int = 16

    def __post_init__(self) -> None:
        check_range(self, "width", least=1, most=4096)

    @property
    def label(self) -> str:
        return self.name if self.width == 16 else f"{self.name} (width {self.width})"

    def __call__(self, dataset: Dataset) -> Classifier:
        widths = [dataset.shape[0], self.width, 2 * self.width, 4 * self.width]
        body = nn.Sequential()
        for i in range(3):
            body.add_module(f"stage{i + 1}", _stage(widths[i], widths[i + 1]))
        body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        body.add_module("linear", nn.Linear(widths[3], dataset.num_classes))
        stages = ("stage1", "stage2", "stage3")
        return Classifier(body, head="linear", stages=stages, mean=dataset.mean, std=dataset.std)


def _stage(inside: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
