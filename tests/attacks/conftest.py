"""Images and networks that the tests of all attacks use."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.models.classifier import Classifier
from sau_bench.models.small_cnn import SmallCNN


@pytest.fixture(scope="module")
def digits() -> Images:
    train = Digits()(Path()).train
    return train[torch.arange(60)]


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return SmallCNN(width=8)(Digits())


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """Images of all 8-bit values, (8, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (8, 3, 32, 32), generator=generator).float() / 255
