"""Figures at the size they are printed at, laid out in inches from what their texts measure.

matplotlib's layout engines draw a figure several times to find its margins; here the margins are
computed, which takes a fraction of the time and leaves no text cut or over another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from sau_bench.benchmark.report.style import Look

COLUMN, PAGE = 3.3, 6.9
"""Widths of figures in inches: a column of a paper, and both with the space between them."""
TALLEST = 9.0
"""Inches of a page of a paper."""
SMALL, NORMAL = 6.0, 7.0
"""Points of ticks, legends and notes, and of titles; publishers ask for at least 6."""
DPI = 200
EDGE = 0.04
"""Inches that stay free at the edges of a figure."""
STYLE = {
    **sns.axes_style("whitegrid"),
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    **{
        f"{axis}tick.major.{what}": size
        for axis in "xy"
        for what, size in (("size", 0), ("pad", 3))
    },
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a $ in a label is a dollar
    "pdf.fonttype": 42,  # outlines of Type 3 fonts are refused by some publishers
}
WORD: Any = {"size": SMALL, "ha": "center", "va": "center"}
"""How a cell without a score says why."""
styled = mpl.rc_context(STYLE)


def measure(text: str, size: float = SMALL) -> tuple[float, float]:
    """Width and height in inches of text, which may have several lines, at `size` points."""
    lines = text.split("\n")
    return max(_width(line, size) for line in lines), 1.25 * size / 72 * len(lines)


@cache
def _width(line: str, size: float) -> float:
    width, _, _ = _renderer().get_text_width_height_descent(line, _font(size), ismath=False)
    return float(width) / DPI


@cache
def _font(size: float) -> FontProperties:
    return FontProperties(family="sans-serif", size=size)


@cache
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, DPI)


def wrapped(text: str, width: float, size: float = SMALL) -> str:
    """The text in lines of at most `width` inches, cut after spaces and signs where it can be."""
    lines = [""]
    for piece in re.findall(r"[^\s=_/,+-]*[\s=_/,+-]?", text):
        if _width((lines[-1] + piece).rstrip(), size) > width and lines[-1]:
            lines.append("")
        for letter in [piece] if _width(piece.rstrip(), size) <= width else piece:
            if _width((lines[-1] + letter).rstrip(), size) > width and lines[-1]:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.strip() for line in lines)


def mark_of(look: Look, size: float) -> dict[str, Any]:
    """The mark of a method, about as large as those of others: stars have little area."""
    large = 1.4 if look.marker == "*" or isinstance(look.marker, tuple) else 1.0
    large = 1.2 if look.marker == "d" else large
    return {"marker": look.marker, "ms": large * size, "mec": "white", "mew": 0.4}


def sample(name: str, look: Look, **style: Any) -> Line2D:
    """The entry of a method in a legend."""
    chosen = mark_of(look, 5.0) | {"ls": look.line} | style
    return Line2D([], [], color=look.colour, label=wrapped(name, 2.7), **chosen)


def canvas(
    shape: Sequence[int],
    heights: float | Sequence[float],
    *,
    width: float = PAGE,
    left: float,
    right: float = 0.08,
    above: Sequence[float],
    below: Sequence[float],
    gap: float = 0.08,
    handles: Sequence[Artist] = (),
    note: str = "",
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows of panels, and its axes by row; below them a legend and a note.

    shape: how many panels each row has; all are as wide as in the longest row. heights: of a panel,
    for each row or of all. above, below: what stays free over and under each row, for titles and
    ticks. left, right, gap: beside and between panels. All in inches.
    """
    columns = max(shape)
    tall = [heights] * len(shape) if isinstance(heights, float) else list(heights)
    panel = (width - left - right - gap * (columns - 1)) / columns
    figure = Figure(figsize=(width, 1.0), dpi=DPI)
    FigureCanvasAgg(figure)  # no pyplot: nothing global to choose, nothing to close
    note = wrapped(note, width - 2 * EDGE)
    foot = EDGE + (measure(note)[1] + 0.03 if note else 0.0)
    legend = _legend(figure, handles) if handles else None
    tallness = legend.get_window_extent(_renderer()).height / DPI if legend else 0.0
    height = sum([*above, *tall, *below]) + tallness + foot
    figure.set_size_inches(width, height)
    if legend:
        legend.set_bbox_to_anchor((0.5, foot / height), transform=figure.transFigure)
    if note:
        figure.text(EDGE / width, EDGE / height, note, size=SMALL, color="0.3", va="bottom")
    ends = accumulate(a + t + b for a, t, b in zip(above, tall, below, strict=True))
    axes = []
    for count, end, h, under in zip(shape, ends, tall, below, strict=True):
        bottom = (height - end + under) / height
        lefts = [(left + i * (panel + gap)) / width for i in range(count)]
        axes.append([figure.add_axes((x, bottom, panel / width, h / height)) for x in lefts])
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Artist]) -> Any:
    """A legend of as few rows as the width of the figure allows."""
    room = figure.get_figwidth() - 2 * EDGE
    for rows in range(1, len(handles) + 1):
        columns = ceil(len(handles) / rows)
        groups = np.array_split(np.array(handles, dtype=object), columns)
        widths = [max(measure(str(h.get_label()))[0] for h in group) for group in groups]
        if sum(widths) + columns * 4.2 * SMALL / 72 <= room:
            break
    return figure.legend(
        handles=handles, loc="lower center", ncols=columns, frameon=False, borderpad=0.3,
        borderaxespad=0, handlelength=2.2, handletextpad=0.5, columnspacing=1.2, labelspacing=0.3,
    )  # fmt: skip


def line_of(axis: Axes, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
    """A line or marks; unlike `axis.plot` it leaves limits alone, and takes a fifth of its time."""
    axis.add_artist(Line2D(np.asarray(x), np.asarray(y), **style))


def labelled(defenses: Iterable[str], narrow: bool) -> tuple[float, list[str], float]:
    """The width of a figure with a line for each defense, their labels, and the margin for these.

    narrow: whether all else fits into a column.
    """
    names = [wrapped(name, 2.3) for name in defenses]
    widest = max(measure(name)[0] for name in names)
    width = COLUMN if narrow and widest <= 1.2 else PAGE
    return width, names, widest + 0.12


def titled(axis: Axes, title: str) -> None:
    """A title at a fixed place: finding one takes matplotlib longer than drawing it."""
    axis.set_title(title, y=1.0, pad=3)


def under(figure: Figure, row: Sequence[Axes], text: str, longest: Sequence[Axes] = ()) -> None:
    """Text below a row of panels, in the middle of it, or of the longest row if it is for all."""
    first, last = ((longest or row)[i].get_position() for i in (0, -1))
    y = row[0].get_position().y0 - 0.16 / figure.get_figheight()
    figure.text((first.x0 + last.x1) / 2, y, text, size=NORMAL, ha="center", va="top")


def beside(figure: Figure, row: Sequence[Axes], text: str) -> None:
    """Text at the left edge, turned upwards, for a row of panels."""
    place = row[0].get_position()
    x, y = EDGE / figure.get_figwidth(), (place.y0 + place.y1) / 2
    figure.text(x, y, text, size=NORMAL, rotation=90, ha="left", va="center", linespacing=1.1)


def bands(count: int, most: int) -> list[range]:
    """`count` columns in rows of equal length, but for the last one, of at most `most`."""
    length = ceil(count / ceil(count / max(1, most)))
    return [range(start, min(start + length, count)) for start in range(0, count, length)]


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers from `low` to `high`."""
    values = MaxNLocator(most, steps=(1, 2, 2.5, 5, 10)).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def pages(make: Callable[[Sequence[str]], Figure], columns: Sequence[str]) -> list[Figure]:
    """The figure of some columns of panels; as several with equal shares if it exceeds a page."""
    for count in range(1, len(columns) + 1):
        parts = bands(len(columns), ceil(len(columns) / count))
        figures = [make(columns[part.start : part.stop]) for part in parts]
        if max(figure.get_figheight() for figure in figures) <= TALLEST:
            break
    return figures


def save(figure: Figure, stem: Path) -> list[Path]:
    """`stem`.pdf and `stem`.png, without dates, so that the same rows give the same bytes."""
    written = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
            path = stem.with_name(stem.name + suffix)
            figure.savefig(path, dpi=DPI, metadata=metadata)
            written.append(path)
    return written
