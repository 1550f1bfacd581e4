"""The contact sheet: clean and poisoned images of each trigger, and what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sau_bench.benchmark.report.canvas import (
    EDGE,
    NORMAL,
    PAGE,
    SMALL,
    canvas,
    measure,
    styled,
    wrapped,
)

PANELS = ("clean", "poisoned", "difference")
GAP = 1 / 16
"""Between images, as a share of their width; twice as much between different ones."""
Pixels = npt.NDArray[np.uint8]


class Examples(NamedTuple):
    """A trigger's name, and images before and after it, both uint8 (N, H, W, C), C of 1 or 3."""

    label: str
    clean: Pixels
    poisoned: Pixels


@styled
def contact_sheet(triggers: Sequence[Examples]) -> Figure:
    """A row for each trigger: three panels for each image, without and with it, and the difference.

    Differences are centred at grey and enlarged by a factor that the label names, the same for all
    images of a row.
    """
    images = max(len(trigger.clean) for trigger in triggers)
    units = images * (len(PANELS) + (len(PANELS) + 1) * GAP) - 2 * GAP
    strips = [strip(trigger) for trigger in triggers]
    labels = [
        f"{wrapped(trigger.label, 1.0, NORMAL)}\ndifference x {gain:.2g}"
        for trigger, (gain, _) in zip(triggers, strips, strict=True)
    ]
    left = max(measure(label, NORMAL)[0] for label in labels) + 3 * EDGE
    unit = (PAGE - left - EDGE) / units
    tall = [unit * pixels.shape[0] / pixels.shape[1] * units for _, pixels in strips]
    spare = max(0.0, max(measure(label, NORMAL)[1] for label in labels) - min(tall)) / 2
    figure, axes = canvas(
        [1] * len(triggers),
        tall,
        left=left,
        right=EDGE,
        above=[0.18 + spare, *[0.05 + spare] * (len(triggers) - 1)],
        below=[spare] * len(triggers),
    )
    for label, (_, pixels), (axis,) in zip(labels, strips, axes, strict=True):
        axis.imshow(pixels, interpolation="nearest", aspect="auto")
        axis.axis("off")
        place = axis.get_position()
        x, y = EDGE / PAGE, (place.y0 + place.y1) / 2
        figure.text(x, y, label, size=NORMAL, va="center")
    top = axes[0][0].get_position().y1 + 0.03 / figure.get_figheight()
    for number in range(images * len(PANELS)):
        image, panel = divmod(number, len(PANELS))
        x = image * (len(PANELS) + (len(PANELS) + 1) * GAP) + panel * (1 + GAP) + 0.5
        figure.text((left + unit * x) / PAGE, top, PANELS[panel], size=SMALL, ha="center")
    return figure


def strip(trigger: Examples) -> tuple[float, Pixels]:
    """By how much differences are enlarged, and the panels of a row side by side, (H, W, 3)."""
    clean, poisoned = (images.astype(int) for images in (trigger.clean, trigger.poisoned))
    change = poisoned - clean
    gain = 127.5 / max(1, int(np.abs(change).max()))
    shown = np.clip(128 + change * gain, 0, 255).astype(int)
    height, width = clean.shape[1:3]
    gap = np.full((height, max(1, round(GAP * width)), 3), 255)
    parts = []
    for images in zip(clean, poisoned, shown, strict=True):
        for pixels in images:
            parts += [np.broadcast_to(pixels, (height, width, 3)), gap]  # grey images, too
        parts.append(gap)
    return gain, np.concatenate(parts[:-2], axis=1).astype(np.uint8)
