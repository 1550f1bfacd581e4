"""My plugin: what it is in a few words (authors, venue, year, arXiv number)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import check_range
from sau_bench.models.classifier import Architecture, Classifier


@dataclass(frozen=True, kw_only=True)
class MyPlugin(Architecture):
    """Two convolutions with batch norm and a linear head. <- say what yours is

    width: channels of the first convolution, 1 to 4,096; the second has twice as many.
    """

    name: ClassVar[str] = "My plugin"  # what tables print
    argument: ClassVar[str] = "width"  # the field that `NAME:VALUE` sets in a config
    smoke: ClassVar[dict[str, int]] = {"width": 8}  # fast, for tests

    # Hyper-parameters, with types and defaults: a config sets them, the docstring explains them.
    width: int = 16

    def __post_init__(self) -> None:
        # Bad values end in one line, before a grid starts.
        check_range(self, "width", least=1, most=4096)

    @property
    def label(self) -> str:
        # Two entries of a config that differ need labels that differ.
        return self.name if self.width == 16 else f"{self.name} (width {self.width})"

    def __call__(self, dataset: Dataset) -> Classifier:
        channels = dataset.shape[0]
        body = nn.Sequential()
        body.add_module("stage1", _stage(channels, self.width))
        body.add_module("stage2", _stage(self.width, 2 * self.width))
        body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        body.add_module("linear", nn.Linear(2 * self.width, dataset.num_classes))
        # The classifier normalises images in [0, 1]. head: the last layer, which is linear.
        # stages: submodules whose outputs methods such as NAD compare.
        stages = ("stage1", "stage2")
        return Classifier(body, head="linear", stages=stages, mean=dataset.mean, std=dataset.std)


def _stage(inside: int, out: int) -> nn.Sequential:
    # Batch norm: several defenses (ANP, EP, RNP) apply only where there is some.
    convolution = nn.Conv2d(inside, out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))
