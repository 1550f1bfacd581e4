"""Which defenses differ by more than chance: paired tests over attacks and seeds, with correction.

For each pair of defenses the Wilcoxon signed-rank test on DER, corrected by Holm's method (Demsar,
Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006; Benavoli, Corani &
Mangili, Should We Really Use Post-Hoc PairedTests Based on Mean-Ranks?, JMLR 17, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log2

import numpy as np
import numpy.typing as npt
from pandas import DataFrame, Series

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.render import Table, caption
from sau_bench.benchmark.rows import UNDEFENDED

LEVEL = 0.05
"""The corrected p-value below which a difference counts as more than chance."""


@dataclass(frozen=True)
class PairedTests:
    """All pairwise tests between the defenses of one (dataset, model) pair.

    ranks: mean rank of each defense by DER, 1 the best, in that order. friedman: p-value of the
    test that no defense differs. pairs: a line for each pair with the columns "better", "worse",
    "difference" (of means, in points), "std", "n", "p" and "corrected".
    """

    ranks: Series
    friedman: float
    pairs: DataFrame

    def cliques(self) -> list[list[str]]:
        """Largest groups of neighbours by rank of which no two differ by more than chance."""
        order = list(self.ranks.index)
        corrected = self.pairs.set_index(["better", "worse"])["corrected"]
        groups: list[list[str]] = []
        for start in range(len(order)):
            end = start + 1
            while end < len(order) and all(
                corrected.get((a, b), corrected.get((b, a), np.nan)) >= LEVEL
                for a, b in combinations(order[start : end + 1], 2)
            ):
                end += 1
            group = order[start:end]
            if len(group) > 1 and not any(set(group) <= set(other) for other in groups):
                groups.append(group)
        return groups


def scored_blocks(selected: DataFrame) -> DataFrame:
    """DER in percent, (attack, seed) x defenses, of what has sound scores throughout.

    Defenses that lack an Average are left out, then the blocks in which one of the others has no
    sound score.
    """
    averages = tables.pivot(selected, "der").loc["Average"].dropna()
    sound = selected[tables.counted(selected) & selected["defense"].ne(UNDEFENDED)]
    sound = sound[sound["attack"].isin(tables.averaged_attacks(selected))]
    scores = 100 * sound.pivot_table("der", ["attack", "seed"], "defense", sort=False)
    kept = [defense for defense in averages.index if defense in scores]
    return scores[kept].dropna()


def needed_blocks(defenses: int) -> int:
    """The number of blocks from which the smallest p-value of the corrected test is significant.

    With n pairs a signed-rank test has a p-value of at least 2 / 2^n; Holm multiplies the smallest
    by the number of tests.
    """
    return ceil(1 + log2(defenses * (defenses - 1) / 2 / LEVEL))


def why_no_test(selected: DataFrame) -> str:
    """Why the rows of one (dataset, model) pair allow no test, "" where they do."""
    scores = scored_blocks(selected)
    blocks, defenses = scores.shape
    if defenses < 2:
        return (
            "No test of differences between defenses: fewer than two have sound scores throughout."
        )
    if blocks >= needed_blocks(defenses):
        return ""
    pairs = defenses * (defenses - 1) // 2
    least = min(1.0, pairs * 2.0 ** (1 - blocks))
    return (
        "No test of differences between defenses, and no critical-difference diagram: "
        f"{blocks} cells (attack x seed) in which all {defenses} defenses are sound; the smallest "
        f"p-value of a signed-rank test is then {2.0 ** (1 - blocks):.2g}, {least:.2g} after "
        f"Holm's correction for {pairs} pairs. Needed: {needed_blocks(defenses)} cells."
    )


def paired_tests(selected: DataFrame) -> PairedTests | None:
    """The tests that the rows of one (dataset, model) pair allow; None where `why_no_test`."""
    if why_no_test(selected):
        return None
    from scipy.stats import friedmanchisquare, rankdata

    scores = scored_blocks(selected)
    # By what tables print: differences in the last bit are ties.
    values = scores.round(4)
    ranks = Series(rankdata(-values, axis=1).mean(axis=0), index=values.columns).sort_values(
        kind="stable"
    )
    friedman = np.nan
    if len(ranks) > 2:
        friedman = float(friedmanchisquare(*values.to_numpy().T).pvalue)
    records = []
    for first, second in combinations(ranks.index, 2):
        change = (values[first] - values[second]).to_numpy()
        better, worse, change = (
            (first, second, change) if change.mean() >= 0 else (second, first, -change)
        )
        records.append((better, worse, change.mean(), change.std(ddof=1), len(change), _p(change)))
    pairs = DataFrame(records, columns=["better", "worse", "difference", "std", "n", "p"])
    return PairedTests(ranks, friedman, pairs.assign(corrected=holm(pairs["p"].to_numpy())))


def _p(change: npt.NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(change).pvalue) if change.any() else 1.0


def holm(p: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values corrected for their number (Holm, A Simple Sequentially Rejective Test, 1979)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def paired_table(selected: DataFrame, tests: PairedTests) -> Table:
    """The pairwise tests, the largest difference first."""
    pairs = tests.pairs.sort_values(["corrected", "p"], kind="stable").reset_index(drop=True)
    text = DataFrame({"Better": pairs["better"], "Worse": pairs["worse"]})
    spreads = pairs["std"].map(" ± {:.2f}".format)
    text["DER difference"] = pairs["difference"].map("{:+.2f}".format) + spreads
    text["n"] = pairs["n"].astype(str)
    for column, title in (("p", "p"), ("corrected", "p corrected")):
        text[title] = pairs[column].map(
            lambda value: f"{value:.4f}" if value >= 1e-4 else "<0.0001"
        )
    text["Differ"] = pairs["corrected"].map(lambda value: "yes" if value < LEVEL else "no")
    what = "Differences of DER in points, mean ± standard deviation over n cells (attack x seed); "
    what += "Wilcoxon signed-rank tests, p corrected by Holm's method, level 0.05"
    if not np.isnan(tests.friedman):
        what += f"; Friedman test: p = {tests.friedman:.2g}"
    ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in tests.ranks.items())
    notes = (
        f"Mean ranks, 1 the best: {ranks}.",
        "Cells of one attack share its trigger: n overstates how many are independent.",
    )
    return Table(
        caption(selected, what), text, pairs, DataFrame(), notes, left=2, float_format="%.6g"
    )
