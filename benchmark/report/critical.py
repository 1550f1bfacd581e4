"""The critical-difference diagram: mean ranks, and which defenses chance cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from matplotlib.figure import Figure

from sau_bench.benchmark.report.canvas import (
    COLUMN,
    PAGE,
    SMALL,
    canvas,
    mark_of,
    measure,
    styled,
    wrapped,
)
from sau_bench.benchmark.report.significance import LEVEL, PairedTests
from sau_bench.benchmark.report.style import Look, names_of

LEAST = 1.4
"""Inches of the axis of ranks."""
BAR, TOP = 0.09, 0.36
"""Inches of each bar below the axis, and of what stands above it."""


@styled
def critical_difference(tests: PairedTests, looks: Mapping[str, Look]) -> Figure:
    """Mean ranks of the defenses by DER, the best on the left (Demsar, JMLR 7, 2006).

    A bar joins defenses of which no two differ by more than chance.
    """
    ranks, cliques = tests.ranks, tests.cliques()
    names, count = names_of(map(str, ranks.index)), len(ranks)
    texts = [f"{wrapped(names[str(d)], 2.3)} ({rank:.2f})" for d, rank in ranks.items()]
    half = (count + 1) // 2
    sides = [max(measure(t)[0] for t in part) + 0.2 for part in (texts[:half], texts[half:])]
    width = COLUMN if COLUMN - sum(sides) - 0.2 >= LEAST else PAGE
    line = max(measure(text)[1] for text in texts) + 0.04
    depth = BAR * (len(cliques) + 1)
    cells = int(tests.pairs["n"].iloc[0])
    note = f"Mean rank by DER over {cells} cells (attack x seed), 1 is best. Bars join defenses of "
    note += f"which no two differ (Wilcoxon signed-rank tests, Holm's correction, level {LEVEL:g})."
    figure, axes = canvas(
        [1], TOP + depth + line * half, width=width, left=0.0, right=0.0, above=[0.02],
        below=[0.02], note=note,
    )  # fmt: skip
    axis = axes[0][0]
    tall = TOP + depth + line * half
    axis.set(xlim=(0, width), ylim=(TOP - tall, TOP))  # in inches
    axis.axis("off")
    left, right = sides[0] + 0.1, width - sides[1] - 0.1

    def at(rank: float) -> float:
        return left + (right - left) * (rank - 1) / max(1, count - 1)

    axis.plot([left, right], [0, 0], color="black", lw=0.8)
    for tick in range(1, count + 1, ceil(0.22 * (count - 1) / (right - left)) or 1):
        axis.plot([at(tick)] * 2, [0, 0.06], color="black", lw=0.8)
        axis.text(at(tick), 0.08, str(tick), ha="center", va="bottom", size=SMALL)
    axis.text((left + right) / 2, 0.22, "better to the left", ha="center", va="bottom", size=SMALL)
    for place, (text, (name, rank)) in enumerate(zip(texts, ranks.items(), strict=True)):
        on_left = place < half
        height = -depth - line * ((place if on_left else count - 1 - place) + 0.5)
        edge, side = (sides[0] - 0.04, "right") if on_left else (width - sides[1] + 0.04, "left")
        look = looks[str(name)]
        style = mark_of(look, 4.0) | {"color": look.colour, "lw": 0.9, "markevery": [-1]}
        axis.plot([at(rank), at(rank), edge], [0, height, height], **style)
        away = -0.06 if on_left else 0.06
        axis.text(edge + away, height, text, ha=side, va="center", size=SMALL)
    for row, clique in enumerate(cliques, start=1):
        ends = at(ranks[clique[0]]) - 0.03, at(ranks[clique[-1]]) + 0.03
        axis.plot(ends, [-BAR * row] * 2, color="black", lw=2.5, solid_capstyle="butt")
    return figure
