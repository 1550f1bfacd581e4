"""Images and networks that the tests of all defenses use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.defenses.batch_norm import batch_norms
from sau_bench.models.classifier import Classifier
from sau_bench.models.small_cnn import SmallCNN


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Images:
    """100 training images."""
    return Digits()(Path()).train[torch.arange(100)]


@pytest.fixture
def cnn() -> Classifier:
    """An untrained network whose batch norm is not at its initial, symmetric values."""
    model = SmallCNN(width=4)(Digits())
    with torch.no_grad():
        for layer in batch_norms(model).values():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
            layer.running_mean.uniform_(-0.1, 0.1)
    return model.eval()
