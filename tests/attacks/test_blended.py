"""Blended's arithmetic and its image."""

from pathlib import Path

import numpy as np
import torch
from attack_cases import constant
from PIL import Image

from sau_bench.attacks.blended import Blended
from sau_bench.benchmark.data import to_uint8


def test_blended_is_integer_arithmetic_for_every_pixel_and_picture_value(tmp_path: Path) -> None:
    x, k = np.indices((256, 256))
    picture = tmp_path / "all.png"
    Image.fromarray(np.repeat(k[:, :, None], 3, 2).astype(np.uint8)).save(picture)
    image = torch.from_numpy(x).float().div(255).expand(1, 3, -1, -1)
    blended = to_uint8(Blended(image=str(picture)).trigger(image))[0]
    assert np.array_equal(blended.numpy(), np.broadcast_to((4 * x + k) // 5, (3, 256, 256)))


def test_blended_picture_is_close_to_the_published_brightness_and_contrast() -> None:
    picture = Blended(alpha=1.0).trigger(constant(0, 32)) * 255
    assert picture.mean((0, 2, 3)).sub(torch.tensor([207.0, 190.0, 198.0])).abs().max() < 15
    assert abs(picture.std().item() - 69) < 10
