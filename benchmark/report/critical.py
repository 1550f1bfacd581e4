"""The critical-difference diagram: mean ranks, and which defenses chance cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from sau_bench.benchmark.report.figures import Look, canvas, styled
from sau_bench.benchmark.report.significance import LEVEL, PairedTests


@styled
def critical_difference(tests: PairedTests, looks: Mapping[str, Look]) -> Figure:
    """Mean ranks of the defenses by DER, the best on the left (Demsar, JMLR 7, 2006).

    A bar joins defenses of which no two differ by more than chance.
    """
    ranks, cliques = tests.ranks, tests.cliques()
    count = len(ranks)
    left = (count + 1) // 2
    depth = 0.28 * (len(cliques) + 1)
    figure, axes = canvas(1, 1, 5.2, 0.75 + 0.19 * left + 0.19 * (len(cliques) + 1))
    axis = axes[0, 0]
    axis.set(xlim=(0.1 - 0.22 * count, 1.22 * count + 0.9), ylim=(-depth - 0.28 * left, 0.55))
    axis.axis("off")
    axis.plot([1, count], [0, 0], color="black", lw=1)
    for tick in range(1, count + 1):
        axis.plot([tick, tick], [0, 0.12], color="black", lw=1)
        axis.text(tick, 0.2, str(tick), ha="center", va="bottom")
    for place, (name, rank) in enumerate(ranks.items()):
        on_left = place < left
        row = place if on_left else count - 1 - place
        height = -depth - 0.28 * row - 0.12
        edge, side = (0.8, "right") if on_left else (count + 0.2, "left")
        colour = looks[str(name)].colour
        axis.plot([rank, rank, edge], [0, height, height], color=colour, lw=1)
        shift = -0.1 if on_left else 0.1
        axis.text(edge + shift, height, f"{name} ({rank:.2f})", ha=side, va="center")
    for row, clique in enumerate(cliques, start=1):
        ends = ranks[clique[0]] - 0.03, ranks[clique[-1]] + 0.03
        axis.plot(ends, [-0.28 * row] * 2, color="black", lw=3, solid_capstyle="butt")
    cells = int(tests.pairs["n"].iloc[0])
    axis.set_title(f"Mean rank by DER over {cells} cells; bars: no difference at {LEVEL:g}", size=8)
    return figure
