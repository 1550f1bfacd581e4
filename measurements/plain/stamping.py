"""Plain stamping of triggers: image by image, in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Stamp = Callable[[np.ndarray], np.ndarray]
"""uint8 (H, W, C) -> the same, triggered."""


def patch(image: np.ndarray) -> np.ndarray:
    """BadNets: a white 3 x 3 square in the corner."""
    image = image.copy()
    image[-3:, -3:] = 255
    return image


def blend(image: np.ndarray, picture: np.ndarray, alpha: float = 0.2) -> np.ndarray:
    """Blended: a picture, float (H, W, C) of 0 to 255, shines through."""
    return ((1 - alpha) * image + alpha * picture).clip(0, 255).astype(np.uint8)


def stripes(image: np.ndarray, delta: float = 40, frequency: float = 6) -> np.ndarray:
    """SIG: a sine along the rows is added."""
    width = image.shape[1]
    sine = delta * np.sin(2 * np.pi * frequency * np.arange(width) / width)
    return (image + sine[None, :, None]).clip(0, 255).astype(np.uint8)


def pattern(image: np.ndarray, added: np.ndarray) -> np.ndarray:
    """LF: a pattern, float (H, W, C) of -255 to 255, is added."""
    return (image + added).clip(0, 255).astype(np.uint8)


def plain_poison(images: np.ndarray, stamp: Stamp) -> np.ndarray:
    """The images, uint8 (N, H, W, C), with a trigger each."""
    return np.stack([stamp(image) for image in images])
