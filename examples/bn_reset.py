"""BN reset: batch-norm statistics measured anew on clean data; a baseline."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import batch, shuffled
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class BNReset(Defense):
    """Clean images pass through the network in training mode. passes: at least 1."""

    name: ClassVar[str] = "BN reset"
    passes: int = 5

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        for _ in range(self.passes):
            for rows in shuffled(len(data), 128, data.y.device):
                with torch.no_grad():
                    model.train()(batch(data, rows, augmented=True).x)
            yield model
