"""The tables of the paper in its own layout: ours, published and the difference, by attack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pandas import DataFrame, MultiIndex, Series

from sau_bench.benchmark.published import AVERAGE, Layout
from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.published import (
    ORACLE,
    TOLERANCE,
    Compared,
    Published,
    Score,
    chosen,
    compare,
    leaderboards,
)
from sau_bench.benchmark.report.render import (
    MARKS,
    METRICS,
    PARTS,
    TEX,
    Table,
    caption,
    grouped,
    is_shown,
    pipes,
)
from sau_bench.benchmark.rows import UNDEFENDED

GROUPS = 4
"""Defenses side by side in a table; the others follow below, as in the paper."""
NO_SCORE = Score(np.nan, np.nan, 0, np.nan, np.nan)
LINES = ("ours", "published", "difference")
OUTSIDE = "*"
"""The mark of a difference that is larger than chance explains."""
TITLES = METRICS | PARTS
PARTS_OF_A_RUN = {
    "dataset": "dataset",
    "network": "network",
    "victim": "training of the victims",
    "attack": "attacks",
    "defense": "defenses",
}


@dataclass(frozen=True)
class GroupedTable(Table):
    """A table whose columns have two levels, a defense and a metric; see `Table`.

    Of more than `GROUPS` defenses the others are printed below, under the same labels of lines.
    """

    def markdown(self) -> str:
        parts = [self.caption]
        for block in self._blocks(self._styled(self.text, "**{}**", "<u>{}</u>")):
            names = [" ".join(filter(None, column)) for column in block.columns]
            parts.append(pipes([names, *block.to_numpy()], self.left))
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def latex(self) -> str:
        """The same as a `table` float; it needs the packages booktabs and graphicx."""
        escaped = self.text.map(lambda cell: re.sub(r"^-(?=\d)", "$-$", cell.translate(TEX)))
        styled = self._styled(escaped, r"\textbf{{{}}}", r"\underline{{{}}}")
        parts = [self._tabular(block) for block in self._blocks(styled)]
        notes = [f"\\par {note.translate(TEX)}" for note in self.notes]
        head = ["\\begin{table}", "\\centering", f"\\caption{{{self.caption.translate(TEX)}}}"]
        return "\n".join([*head, "\n\\par\\medskip\n".join(parts), *notes, "\\end{table}"]) + "\n"

    def _blocks(self, cells: DataFrame) -> Iterable[DataFrame]:
        """The columns in groups, the labels of the lines before each."""
        labels, groups = cells.iloc[:, : self.left], cells.iloc[:, self.left :]
        names = list(dict.fromkeys(groups.columns.get_level_values(0)))
        for start in range(0, len(names), GROUPS):
            yield labels.join(groups[names[start : start + GROUPS]])

    def _tabular(self, block: DataFrame) -> str:
        names = [[name.translate(TEX) for name in column] for column in block.columns]
        spans = Series([group for group, _ in names[self.left :]]).groupby(
            [group for group, _ in names[self.left :]], sort=False
        )
        head, rules, place = ["" for _ in range(self.left)], [], self.left + 1
        for group, members in spans:
            last = place + len(members) - 1
            head.append(f"\\multicolumn{{{len(members)}}}{{c}}{{{group}}}")
            rules.append(f"\\cmidrule(lr){{{place}-{last}}}")
            place = last + 1
        lines = [" & ".join(head) + r" \\", "".join(rules)]
        lines += [" & ".join(name for _, name in names) + r" \\", "\\midrule"]
        for row in block.to_numpy():
            if row[0] == AVERAGE:
                lines.append("\\midrule")
            elif row[0] and lines[-1] != "\\midrule":
                lines.append("\\addlinespace")
            lines.append(" & ".join(row) + r" \\")
        columns = "l" * self.left + "r" * (len(names) - self.left)
        body = "\n".join(["\\toprule", *lines, "\\bottomrule"])
        tabular = f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"
        return f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}}}"


def published_tables(
    published: Published,
    rows: DataFrame,
    selected: DataFrame,
    shown: Sequence[str] = tuple(METRICS),
) -> dict[str, Table]:
    """Tables of the paper that the runs of one (dataset, model) pair are in, by file name.

    Leaderboard cells have tables of their own; those that were selected with test data stand beside
    our candidates that the rule `oracle` picks. rows: all steps of the runs. shown: metrics.
    """
    made: dict[str, Table] = {}
    layouts = chosen(published, selected)
    victims_only = (selected["defense"] == UNDEFENDED).all()
    for layout in _showing(layouts, shown):
        cells = compare(published, layout, selected)
        # A table that shares no more than a victim with what ran says nothing about the defenses.
        if victims_only or any(cell.column != UNDEFENDED for cell in cells):
            made[_stem(layout)] = comparison_table(published, layout, selected, cells)
    for board in _showing(leaderboards(published.paper, layouts), shown):
        ours = _by_test_data(rows) if board.kind == ORACLE else selected
        cells = compare(published, board, ours)
        if any(map(_comparable, cells)):
            made[_stem(board)] = comparison_table(published, board, ours, cells)
    return made


def _showing(layouts: Iterable[Layout], shown: Sequence[str]) -> Iterator[Layout]:
    """The layouts with those of their metrics that are shown, if there are any."""
    for layout in layouts:
        if metrics := tuple(m for m in layout.metrics if is_shown(m, shown)):
            yield replace(layout, metrics=metrics)


def _stem(layout: Layout) -> str:
    name = layout.table.replace("T", "table") if layout.kind == "paper" else layout.table
    return re.sub(r"[^a-z0-9.]+", "_", name).strip("_")


def _by_test_data(rows: DataFrame) -> DataFrame:
    """One row for each run, candidates selected by the rule `oracle`."""
    candidates = rows.loc[rows["kind"] == "candidates", "defense"].unique()
    kept = rows[rows["defense"].isin([UNDEFENDED, *candidates])]
    return tables.select(kept, dict.fromkeys(candidates, ORACLE))


def _comparable(cell: Compared) -> bool:
    return cell.column != UNDEFENDED and any(score.verdict for score in cell.scores.values())


def comparison_table(
    published: Published,
    layout: Layout,
    selected: DataFrame,
    compared: Sequence[Compared] | None = None,
) -> Table:
    """The cells of a layout that were run, three lines for each attack, in percent.

    compared: these cells, of `compare`, if they are known already.
    """
    cells = compare(published, layout, selected) if compared is None else compared
    runs = published.runs(layout, selected)
    shown = selected[selected["key"].isin(runs["key"])]
    by_place = {(cell.line, cell.column): cell for cell in cells}
    found = list(dict.fromkeys(cell.line for cell in cells if cell.line != AVERAGE))
    order = [line for line, _ in layout.rows]
    lines = sorted(found, key=lambda line: order.index(line) if line in order else len(order))
    lines += [AVERAGE] * any(cell.line == AVERAGE for cell in cells)
    columns = _columns(layout, cells)
    every = [(c, m) for c in columns for m in layout.metrics if c != UNDEFENDED or m != "der"]
    ours, theirs = (np.full((len(lines), len(every)), np.nan) for _ in range(2))
    text, ranks = [], []
    for line in lines:
        for kind in LINES:
            text.append([_text(by_place.get((line, c)), m, kind, selected) for c, m in every])
        for place, (column, metric) in enumerate(every):
            if cell := by_place.get((line, column)):
                score, where = cell.scores[metric], (lines.index(line), place)
                ours[where] = score.mean if cell.state in tables.SOUND else np.nan
                theirs[where] = score.published
    index = lines, MultiIndex.from_tuples(every)
    ranked = {"ours": _ranks(DataFrame(ours, *index))}
    if {*columns} <= {UNDEFENDED, *layout.defenses}:  # each published defense once
        ranked["published"] = _ranks(DataFrame(theirs, *index))
    for line in lines:
        ranks += [ranked[k].loc[line] if k in ranked else Series(np.nan, every) for k in LINES]
    titles = [(column, TITLES[metric]) for column, metric in every]
    labels = [("", "Attack"), ("", "")]
    named = [(line if k == LINES[0] else "", k) for line in lines for k in LINES]
    table = DataFrame(text, columns=MultiIndex.from_tuples(titles))
    table = DataFrame(named, columns=MultiIndex.from_tuples(labels)).join(table)
    places = DataFrame(np.array(ranks), columns=MultiIndex.from_tuples(titles))
    what = _what(layout, selected["seed"].nunique(), bool(places.notna().any(axis=None)))
    numbers, notes = _numbers(cells, lines, columns, layout.metrics), _notes(layout, cells)
    return GroupedTable(caption(shown, what), table, numbers, places, notes, 2)


def _columns(layout: Layout, cells: Sequence[Compared]) -> list[str]:
    """The columns that were run, in the order of the layout; others where they first appear."""
    found = list(dict.fromkeys(cell.column for cell in cells))
    order = [UNDEFENDED, *layout.defenses]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _ranks(scores: DataFrame) -> DataFrame:
    """Ranks among the defenses in each line; none where a defense of the table lacks its score."""
    ranks = DataFrame(np.nan, scores.index, scores.columns)
    defended = [column for column in scores.columns.to_list() if column[0] != UNDEFENDED]
    for metric in dict.fromkeys(column[1] for column in defended):
        columns = [column for column in defended if column[1] == metric]
        whole = scores[columns].dropna()
        if len(whole):
            better = "asr" if metric.startswith("asr") else metric
            ranks.loc[whole.index, columns] = tables.rank(whole, better).to_numpy()
    return ranks


def _text(cell: Compared | None, metric: str, kind: str, selected: DataFrame) -> str:
    if cell is None or metric not in cell.scores:
        return "-"
    score = cell.scores[metric]
    if kind == "published":
        return "-" if np.isnan(score.published) else f"{score.published:.2f}"
    if kind == "difference":
        mark = OUTSIDE if score.verdict == "outside" else ""
        return "-" if np.isnan(score.difference) else f"{score.difference:+.2f}{mark}"
    if cell.state in tables.ABSENT and cell.line != AVERAGE:
        return MARKS[cell.state]
    if np.isnan(score.mean):
        return "-"
    spread = "" if np.isnan(score.std) else f" ± {score.std:.2f}"
    seeds = selected["seed"].nunique()
    fewer = f" ({score.n} of {seeds})" if score.n < seeds else ""
    return f"{score.mean:.2f}{spread}{fewer}{MARKS.get(cell.state, '')}"


def _what(layout: Layout, seeds: int, ranked: bool) -> str:
    if layout.kind == "paper":
        what = f"Table {layout.table.removeprefix('T')} of the SAU paper ({layout.section})"
    elif layout.kind == ORACLE:
        what = "Cells of the BackdoorBench leaderboard that were selected with test data"
    else:
        what = "Cells of the BackdoorBench leaderboard"
    what += ": ours, published and their difference in percent"
    what += "; best defense bold, second underlined" if ranked else ""
    if seeds > 1:
        return f"{what}; {OUTSIDE} outside the interval that holds one more run in 95 % of cases"
    compared = {metric.partition("_")[0] for metric in layout.metrics}
    limits = (
        ", ".join(
            f"{TITLES[m]} {limit:g}" for m, limit in TOLERANCE[defended].items() if m in compared
        )
        for defended in (False, True)
    )
    bare, defended = limits
    return f"{what}; {OUTSIDE} beyond the tolerance of single runs ({bare}; defended {defended})"


def _numbers(
    cells: Sequence[Compared], lines: list[str], columns: list[str], metrics: Sequence[str]
) -> DataFrame:
    records = []
    for cell in sorted(cells, key=lambda c: (lines.index(c.line), columns.index(c.column))):
        record: dict[str, object] = {"attack": cell.line, "defense": cell.column}
        for metric, score in (dict.fromkeys(metrics, NO_SCORE) | dict(cell.scores)).items():
            record |= {metric: score.mean, f"{metric} std": score.std, f"{metric} n": score.n}
            record |= {f"{metric} published": score.published}
            record |= {f"{metric} difference": score.difference}
            record |= {f"{metric} noise": score.half, f"{metric} verdict": score.verdict}
        record |= {"status": cell.state, "source": "; ".join(cell.sources)}
        record["departures"] = "; ".join(f"{d.part}: {d}" for d in cell.departures)
        records.append(record)
    frame = DataFrame(records)
    return frame.astype({f"{metric} n": "Int64" for metric in metrics})


def _notes(layout: Layout, cells: Sequence[Compared]) -> tuple[str, ...]:
    """Verdicts counted, marks, where published cells are from, departures, what was not run."""
    notes = [_verdicts(cells), *_marks(cells), *_sources(cells), *_departures(cells)]
    lines = {cell.line for cell in cells}
    columns = {cell.column for cell in cells}
    if layout.kind == "paper" and AVERAGE in lines | columns:
        left = [line for line, _ in layout.rows if line not in lines]
        left += [name for name in layout.defenses if name not in columns]
        notes += [f"Of the table not run: {', '.join(left)}."] if left else []
    return tuple(filter(None, notes))


def _verdicts(cells: Iterable[Compared]) -> str:
    counts: dict[str, list[int]] = {}
    for cell in cells:
        if cell.line != AVERAGE:
            for metric, score in cell.scores.items():
                if score.verdict:
                    count = counts.setdefault(TITLES[metric], [0, 0])
                    count[0] += score.verdict == "within"
                    count[1] += 1
    if not counts:
        return "No published number is legible for what was run."
    parts = (f"{within} of {number} {title}" for title, (within, number) in counts.items())
    return f"Within noise: {', '.join(parts)}."


def _marks(cells: Iterable[Compared]) -> list[str]:
    states: dict[str, list[str]] = {}
    for cell in cells:
        if cell.state in MARKS and cell.line != AVERAGE:
            states.setdefault(cell.state, []).append(f"{cell.column} ({cell.line})")
    return [
        f"{'' if MARKS[state] == state else MARKS[state] + ' '}{state}: {', '.join(names)}."
        for state, names in states.items()
    ]


def _sources(cells: Sequence[Compared]) -> list[str]:
    pairs = [(source, cell) for cell in cells for source in cell.sources if cell.line != AVERAGE]
    if not pairs:
        return []
    sources = Series([source for source, _ in pairs])
    names = Series([cell.column for _, cell in pairs])
    return [f"Published: {grouped(sources, names)}; DER is computed where it is not printed."]


def _departures(cells: Iterable[Compared]) -> list[str]:
    """The fields that differ from what was published, each once, with whose they are."""
    owners: dict[str, dict[str, dict[str, None]]] = {}
    everyone: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.line == AVERAGE:
            continue
        for part in PARTS_OF_A_RUN:
            name = cell.column if part == "defense" else cell.line
            if part != "defense" or name != UNDEFENDED:
                everyone.setdefault(part, {})[name] = None
        for departure in cell.departures:
            name = cell.column if departure.part == "defense" else cell.line
            fields = owners.setdefault(departure.part, {})
            fields.setdefault(str(departure), {})[name] = None
    if not owners:
        return ["Every setting is the published one."]
    texts = []
    for part, title in PARTS_OF_A_RUN.items():
        if part in owners:
            groups = _by_owner(owners[part], everyone[part])
            texts.append(f"- {title}: {'; '.join(groups)}")
    return ["Settings that depart from the published ones, which are in brackets:", *texts]


def _by_owner(
    fields: Mapping[str, Mapping[str, None]], everyone: Mapping[str, None]
) -> Iterable[str]:
    """Fields that have the same owners together, most owners first; none are named for all."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for text, names in fields.items():
        groups.setdefault(tuple(names), []).append(text)
    for whom, texts in sorted(groups.items(), key=lambda group: -len(group[0])):
        whose = "" if len(whom) == len(everyone) else f"{', '.join(whom)} "
        yield whose + ", ".join(texts)
