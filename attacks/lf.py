"""LF: a smooth, low-frequency pattern (Zeng, Park, Mao & Jia, ICCV 2021, arXiv 2104.03413)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attacks.asset import AssetPoisoning
from attacks.base import Trigger
from attacks.universal_pattern import UniversalPattern
from benchmark.errors import check_range


@dataclass(frozen=True, kw_only=True)
class LF(AssetPoisoning):
    """x becomes x + v with v a targeted universal perturbation of a clean model, low-pass filtered.

    images: clean images that the pattern is made from, at least 1. passes: over them at most, at
    least 1. delta: the search ends once a share 1 - delta of other images changes class, in
    [0, 1). amplitude: v spans [0, amplitude], in (0, 1].

    Note: the published code measures the share on 10 test images of each class. An attack sees
    no test data here, so it is up to 10 training images of each class (at most a tenth of it) that
    the pattern is not made from. Its generator also added the pattern before normalisation in one
    place and after it in another; here always to pixels.
    """

    name: ClassVar[str] = "LF"
    smoke: ClassVar[dict[str, Any]] = {"images": 4, "passes": 1}

    images: int = 100
    passes: int = 50
    delta: float = 0.8
    amplitude: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "images", "passes", least=1)
        check_range(self, "delta", least=0, below=1)
        check_range(self, "amplitude", above=0, most=1)

    @property
    def asset(self) -> UniversalPattern:
        return UniversalPattern(
            target=self.target,
            images=self.images,
            passes=self.passes,
            delta=self.delta,
            amplitude=self.amplitude,
        )

    def trigger(self, asset: Mapping[str, Tensor]) -> Trigger:
        pattern = asset["pattern"]
        return lambda x: (x + pattern.to(x.device)).clamp_(0, 1)
