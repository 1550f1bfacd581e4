"""The contact sheet: what its panels show, and that its labels can be read."""

from __future__ import annotations

import numpy as np
import pytest
from test_figures import misplaced, texts

from sau_bench.benchmark.report.canvas import PAGE
from sau_bench.benchmark.report.sheet import Examples, contact_sheet, strip


def trigger(label: str, channels: int, size: int, change: int, count: int = 4) -> Examples:
    """Grey images whose last column the trigger makes brighter."""
    clean = np.full((count, size, size, channels), 100, np.uint8)
    poisoned = clean.copy()
    poisoned[:, :, -1] += np.uint8(change)
    return Examples(label, clean, poisoned)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_shows_images_without_and_with_the_trigger_and_the_difference(channels):
    gain, pixels = strip(trigger("x", channels, 32, 20, count=1))
    assert gain == pytest.approx(127.5 / 20)
    clean, poisoned, change = (pixels[:, start : start + 32] for start in (0, 34, 68))
    assert pixels.shape == (32, 100, 3) and (pixels[:, 32:34] == 255).all()
    assert (clean == 100).all() and (poisoned[:, :-1] == 100).all()
    assert (poisoned[:, -1] == 120).all()
    assert (change[:, :-1] == 128).all() and (change[:, -1] == 255).all()


def test_a_trigger_that_changes_nothing_is_grey():
    gain, pixels = strip(trigger("x", 3, 16, 0, count=1))
    assert np.isfinite(gain) and (pixels[:, -16:] == 128).all()


@pytest.mark.parametrize("count", [1, 4])
def test_labels_can_be_read(count):
    label = "Low-frequency perturbation (kernel=5, steps=1000, precision=bf16)"
    triggers = [trigger(name, 3, 32, 9, count) for name in ("BadNets", label, label)]
    figure = contact_sheet(triggers)
    written = texts(figure)
    assert figure.get_figwidth() == PAGE and misplaced(figure, written) == []
    assert min(text.get_fontsize() for text, _ in written) >= 6
    heads = [text.get_text() for text, _ in written].count("difference")
    assert heads == count
