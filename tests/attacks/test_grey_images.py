"""Every attack on grey images: it works, or it is refused before a grid starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attack_cases import count
from PIL import Image
from torch import Tensor

from sau_bench.attacks.base import make_asset, poison_test, triggers_of
from sau_bench.attacks.blended import PICTURE, Blended
from sau_bench.attacks.input_aware import DynamicTrigger, generator_widths
from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.benchmark.datasets.mnist import Mnist
from sau_bench.benchmark.loading import load, plugin_names
from sau_bench.benchmark.train import Recipe
from sau_bench.models.small_cnn import SmallCNN

RECIPE = Recipe(epochs=2, batch_size=16)
REFUSED = {"ssba"}


@pytest.fixture
def grey() -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Images(x, torch.arange(40) % 10)


@pytest.mark.parametrize(
    "name", [n for n in plugin_names("attacks") if not load("attacks", n).from_files]
)
def test_an_attack_takes_grey_images_or_refuses_them(name: str, grey: Images) -> None:
    cls: Any = load("attacks", name)
    attack = cls(**cls.smoke)
    if name in REFUSED:
        with pytest.raises(ValueError, match="images are 1x28x28, accepted: "):
            attack.check(Mnist(), RECIPE)
        return
    attack.check(Mnist(), RECIPE)
    torch.manual_seed(0)
    model = SmallCNN(width=4)(Mnist())
    rows = attack.draw(grey.y, 0)
    trigger = attack(model, grey, rows, RECIPE, make_asset(attack, model, grey, RECIPE))
    for part in triggers_of(trigger):
        with torch.no_grad():
            assert part(grey.floats()).shape == (40, 1, 28, 28)
    assert poison_test(grey, attack, trigger, 10).data.x.shape[1:] == (1, 28, 28)
    assert attack.poisoned_set(grey, rows, trigger, 10, 16).x.shape == grey.x.shape


def test_blended_shows_the_picture_in_grey(grey: Images) -> None:
    picture = np.asarray(
        Image.open(PICTURE).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    )
    found = to_uint8(Blended().trigger(grey.floats()))[:, 0].numpy()
    assert np.array_equal(found, (4 * grey.x[:, 0].numpy().astype(int) + picture) // 5)


def conv(inside: int, out: int) -> int:
    """Parameters of a block: 3 x 3 weights, biases, and two of a batch norm."""
    return 9 * inside * out + out + 2 * out


def test_input_aware_halves_small_images_twice() -> None:
    assert generator_widths(28, 28) == (16, 32) and generator_widths(64, 32) == (32, 64, 128)
    with pytest.raises(ValueError, match="30 x 28, accepted: height and width multiples of 4"):
        generator_widths(30, 28)
    one: Tensor = torch.full((1, 1, 1, 1), 0.5)
    trigger = DynamicTrigger(one, one, (16, 32), twice=False)
    down = conv(1, 16) + conv(16, 16) + conv(16, 32) + conv(32, 32)
    up = conv(32, 32) + conv(32, 16) + conv(16, 16) + conv(16, 1)
    assert count(trigger.patterns) == down + conv(32, 32) + up
    assert trigger.eval()(torch.rand(3, 1, 28, 28)).shape == (3, 1, 28, 28)
