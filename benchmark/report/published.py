"""Measured scores beside published ones: for each cell the difference, and whether it is noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from pandas import DataFrame, Series

from sau_bench.benchmark.published import AVERAGE, Cell, Departure, Layout, Paper, Reproduced, Value
from sau_bench.benchmark.report import tables
from sau_bench.benchmark.rows import UNDEFENDED

SOURCES = ("SAU23-ok", "SAU23-repaired", "SAU23-unchecked")
"""Readings of the SAU paper, the most certain first; `results/paper/README.md` describes them."""
LEADERBOARDS = ("BBv1-2022", "BBv2-2025", "BBcsv-2024")
"""Sources of leaderboard cells, the preferred ones first."""
SAME_VICTIMS = ("BBv1-2022", (UNDEFENDED, "FP", "NC", "NAD"))
"""The leaderboard whose victims, and whose cells of these defenses, the SAU paper re-uses."""
ORACLE = "oracle"
TOLERANCE = {
    False: {"acc": 1.0, "asr": 3.0, "racc": 3.0},
    True: {"acc": 3.0, "asr": 10.0, "racc": 10.0, "der": 6.5},
}
"""By whether a model is defended: points of percent within which two single runs count as the same.
That of DER follows from those of ACC and ASR."""
CONFIDENCE = 0.95
"""Of the interval in which one more run lies, by the spread of several seeds."""


@dataclass(frozen=True)
class Score:
    """One metric of one cell in percent; NaN where there is none. half: see `half_width`."""

    mean: float
    std: float
    n: int
    published: float
    half: float

    @property
    def difference(self) -> float:
        return self.mean - self.published

    @property
    def verdict(self) -> str:
        """ "within" or "outside" what chance explains, "" where one of the two is missing."""
        if np.isnan(self.difference) or np.isnan(self.half):
            return ""
        # Half a unit of the last printed digit.
        return "within" if abs(self.difference) <= self.half + 0.005 else "outside"


@dataclass(frozen=True)
class Compared:
    """One cell of a layout: its scores by metric, and what they are of.

    state: of our cell, see `benchmark.report.tables.cell_states`. sources: of the published
    scores. departures: from what was published.
    """

    line: str
    column: str
    scores: Mapping[str, Score]
    state: str
    sources: tuple[str, ...] = ()
    departures: tuple[Departure, ...] = ()


def half_width(std: float, n: int, defended: bool, metric: str) -> float:
    """The largest difference, in points of percent, that counts as noise.

    Of several seeds half the interval in which one more run lies with a probability of
    `CONFIDENCE`, if runs are normal with the spread of these; of a single one `TOLERANCE`.
    """
    if n < 2:
        return TOLERANCE[defended].get(metric.partition("_")[0], np.nan)
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std * sqrt(1 + 1 / n)


class Published:
    """The published side: which scores a cell has, and which of our runs are that cell."""

    def __init__(self, paper: Paper, found: Reproduced) -> None:
        self.paper, self.found = paper, found
        self._alike: dict[str, list[Cell]] = {}
        for cell, identity in found.identities.items():
            self._alike.setdefault(identity, []).append(cell)

    def runs(self, layout: Layout, selected: DataFrame) -> DataFrame:
        """The selected rows that are cells of a layout, with the columns `cell` and `line`."""
        places: dict[str, list[tuple[str, Cell]]] = {}
        for line, row in layout.rows:
            for defense in (UNDEFENDED, *layout.defenses):
                cell = row._replace(defense=defense)
                if identity := self.found.identities.get(cell):
                    places.setdefault(identity, []).append((line, cell))
        hits = [
            (index, line, cell)
            for index, key in selected["key"].items()
            for identity in self.found.runs.get(key, ())
            for line, cell in places.get(identity, ())
        ]
        rows = selected.loc[[index for index, _, _ in hits]].reset_index(drop=True)
        return rows.assign(
            line=[line for _, line, _ in hits], cell=Series([c for *_, c in hits], dtype=object)
        )

    def departures(self, layout: Layout, run: Series) -> tuple[Departure, ...]:
        """The fields in which a selected row departs from its cell of a layout, and its rule."""
        fields = self.found.runs[run["key"]][self.found.identities[run["cell"]]]
        rules = [value.select for value in self._values(layout, run["cell"])]
        if rules and rules[0] and run["rule"] != rules[0]:
            fields = (*fields, Departure("defense", "selection", run["rule"], rules[0]))
        return fields

    def scores(self, layout: Layout, cell: Cell) -> tuple[dict[str, float], tuple[str, ...]]:
        """Published scores of a cell in percent, and their sources, the preferred ones first.

        DER that no source prints follows from ACC and ASR.
        """
        values = list(self._values(layout, cell))
        scores: dict[str, float] = {}
        sources: dict[str, None] = {}
        for value in values:
            new = {name: v for name, v in value.scores.items() if name not in scores}
            if new.keys() & {*layout.metrics}:
                sources[f"{value.source} {value.table}"] = None
            scores |= new
        if "der" not in scores and cell.defense != UNDEFENDED and {"acc", "asr"} <= scores.keys():
            scores |= self._der(layout, cell, scores, values[0].source)
        return scores, tuple(sources)

    def nearest(self, key: str) -> tuple[Departure, ...]:
        """The fields in which the job of a key departs from the published cell next to it."""
        return min(self.found.runs.get(key, {"": ()}).values(), key=len)

    def timed(self, selected: DataFrame) -> dict[str, tuple[str, float]]:
        """By label of our defense the published one and its seconds, for those of table 7."""
        times = {
            identity: (cell.defense, time)
            for cell, identity in self.found.identities.items()
            if (time := self.paper.seconds.get(cell._replace(attack=AVERAGE))) is not None
        }
        return {
            label: times[identity]
            for key, label in zip(selected["key"], selected["defense"], strict=True)
            for identity in self.found.runs.get(key, ())
            if identity in times
        }

    def norms(self, key: str) -> dict[str, float]:
        """Published norms of the trigger of a victim, by column: "l1", "l2", "linf"."""
        cells = [
            cell for identity in self.found.runs.get(key, ()) for cell in self._alike[identity]
        ]
        return {
            name: float(row[name])
            for row in self.paper.norms
            if any((row["dataset"], row["attack"]) == (c.dataset, c.attack) for c in cells)
            for name in ("l1", "l2", "linf")
            if row[name]
        }

    def _values(self, layout: Layout, cell: Cell) -> Iterator[Value]:
        """Those of the cell's own table come first."""
        alike = self._alike.get(self.found.identities.get(cell, ""), [cell])
        cells = {cell: None} | dict.fromkeys(alike)
        every = [value for one in cells for value in self.paper.values.get(one, ())]
        if layout.kind == "leaderboard":
            usable = [v for v in every if v.source in LEADERBOARDS and v.select != ORACLE]
            yield from sorted(usable, key=lambda value: LEADERBOARDS.index(value.source))
        elif layout.kind == "oracle":
            plain = cell.defense == UNDEFENDED
            usable = [v for v in every if v.source in LEADERBOARDS]
            usable = [v for v in usable if plain or v.select == ORACLE]
            yield from sorted(usable, key=lambda value: LEADERBOARDS.index(value.source))
        else:
            read = [v for v in every if v.source in SOURCES]
            own = [(v.table != layout.table, SOURCES.index(v.source)) for v in read]
            order = sorted(range(len(read)), key=own.__getitem__)
            yield from (read[place] for place in order)
            source, defenses = SAME_VICTIMS
            if cell.defense in defenses:
                yield from (value for value in every if value.source == source)

    def _der(
        self, layout: Layout, cell: Cell, scores: Mapping[str, float], source: str
    ) -> dict[str, float]:
        undefended = list(self._values(layout, cell._replace(defense=UNDEFENDED)))
        undefended.sort(key=lambda value: value.source != source)
        for value in undefended:
            if {"acc", "asr"} <= value.scores.keys():
                pairs = (s[name] / 100 for s in (scores, value.scores) for name in ("acc", "asr"))
                return {"der": 100 * float(tables.der(*pairs))}
        return {}

    def average(self, layout: Layout, defense: str, lines: Sequence[Cell]) -> dict[str, float]:
        """The published averages of a defense over the attacks of some cells.

        As printed where these are all of the layout, else the mean where every cell is known.
        """
        printed: dict[str, float] = {}
        if len(lines) == len(layout.rows):
            whole = lines[0]._replace(attack=AVERAGE, defense=defense)
            for value in self.paper.values.get(whole, ()):
                if value.table == layout.table:
                    printed = dict(value.scores) | printed
        cells = [self.scores(layout, cell._replace(defense=defense))[0] for cell in lines]
        everywhere = [name for name in cells[0] if all(name in scores for scores in cells)]
        means = {name: sum(scores[name] for scores in cells) / len(cells) for name in everywhere}
        return means | printed


def chosen(published: Published, selected: DataFrame) -> list[Layout]:
    """The fewest tables of the paper that hold every run which is a cell of any.

    The table with most runs first; of several, the one of which the least is missing.
    """
    keys = {
        layout: set(published.runs(layout, selected)["key"]) for layout in published.paper.layouts
    }
    size = {layout: len(list(layout.cells())) for layout in keys}
    kept: list[Layout] = []
    covered: set[str] = set()
    while keys:
        best = max(keys, key=lambda layout: (len(keys[layout] - covered), -size[layout]))
        if not keys[best] - covered:
            break
        kept.append(best)
        covered |= keys.pop(best)
    return [layout for layout in published.paper.layouts if layout in kept]


def compare(published: Published, layout: Layout, selected: DataFrame) -> list[Compared]:
    """Every cell of a layout that was run, and an Average for each column; see `Compared`.

    Where runs with several labels are one published attack or defense, each has a line or column
    under its own label.
    """
    runs = published.runs(layout, selected)
    if runs.empty:
        return []
    runs = _named(runs)
    seeds = selected["seed"].nunique()
    compared: list[Compared] = []
    for (column, line), cell in runs.groupby(["column", "line"], sort=False):
        theirs, sources = published.scores(layout, cell["cell"].iloc[0])
        entering = tables.counted(cell)
        scored = cell[entering] if entering.any() else cell
        defended = cell["cell"].iloc[0].defense != UNDEFENDED
        states = list(zip(cell["status"], entering, strict=True))
        departures = published.departures(layout, cell.iloc[0])
        scores = {}
        for metric in _metrics(layout, defended):
            there = metric in scored
            values = scored[metric].dropna() if there else Series(np.empty(0))
            mean, std, n = 100 * values.mean(), 100 * values.std(), len(values)
            half = half_width(std, n, defended, metric)
            scores[metric] = Score(mean, std, n, theirs.get(metric, np.nan), half)
        state = tables.state_of(states, seeds)
        compared.append(Compared(str(line), str(column), scores, state, sources, departures))
    return compared + list(_averages(published, layout, runs, compared))


def _named(runs: DataFrame) -> DataFrame:
    """The runs with a column "column", and with lines of their own for several labels."""
    defenses = Series([cell.defense for cell in runs["cell"]], index=runs.index)
    several = runs.groupby(defenses)["defense"].transform("nunique") > 1
    column = defenses.mask(several & defenses.ne(UNDEFENDED), runs["defense"])
    attacks = runs.groupby("line")["attack"].transform("nunique") > 1
    return runs.assign(column=column, line=runs["line"].mask(attacks, runs["attack"]))


def _metrics(layout: Layout, defended: bool) -> list[str]:
    return [metric for metric in layout.metrics if defended or metric != "der"]


def _averages(
    published: Published, layout: Layout, runs: DataFrame, compared: Iterable[Compared]
) -> Iterator[Compared]:
    """The mean over lines of each column, without the lines whose victim is not sound."""
    states = {(cell.column, cell.line): cell.state for cell in compared}
    lines = [
        line for line in runs["line"].unique() if states.get((UNDEFENDED, line)) in tables.SOUND
    ]
    if len(lines) < 2:
        return
    seeds = [*runs["seed"].unique()]
    cells = runs.drop_duplicates("line").set_index("line")["cell"]
    for column, of_column in runs.groupby("column", sort=False):
        defense = of_column["cell"].iloc[0].defense
        defended = defense != UNDEFENDED
        sound = all(states.get((str(column), line)) in tables.SOUND for line in lines)
        theirs = published.average(layout, defense, [cells[line] for line in lines])
        entering = of_column[tables.counted(of_column) & of_column["line"].isin(lines)]
        scores = {}
        for metric in _metrics(layout, defended):
            mean, std, n = np.nan, np.nan, 0
            if sound and metric in entering:
                table = np.full((len(lines), len(seeds)), np.nan)
                places = zip(entering["line"], entering["seed"], entering[metric], strict=True)
                for line, seed, score in places:
                    table[lines.index(line), seeds.index(seed)] = 100 * score
                by_seed = Series(table.mean(axis=0)).dropna()
                by_line = DataFrame(table).mean(axis=1)
                mean, std, n = by_line.mean(), by_seed.std(), len(by_seed)
            half = half_width(std, n, defended, metric)
            scores[metric] = Score(mean, std, n, theirs.get(metric, np.nan), half)
        yield Compared(AVERAGE, str(column), scores, "ok" if sound else "missing")


def leaderboards(paper: Paper, layouts: Iterable[Layout]) -> Iterator[Layout]:
    """The leaderboards' cells of the datasets, networks and poisoning ratios of some layouts.

    Those that were selected with test data have a layout of their own.
    """
    places = dict.fromkeys(row[:3] for layout in layouts for _, row in layout.rows)
    for dataset, network, ratio in places:
        there = {
            cell.attack
            for cell, values in paper.values.items()
            if cell[:3] == (dataset, network, ratio)
            and any(value.source in LEADERBOARDS for value in values)
        }
        attacks = [name for name in paper.names["attacks"] if name in there]
        rows = tuple((name, Cell(dataset, network, ratio, name, "")) for name in attacks)
        share = "" if ratio == 0.1 else f" {100 * ratio:g} %"
        defenses = "FT", "FP", "NC", "NAD", "EP", "i-BAU"
        yield Layout(f"leaderboard{share}", "", rows, defenses, kind="leaderboard")
        yield Layout(f"oracle{share}", "", rows, ("ANP",), kind="oracle")
