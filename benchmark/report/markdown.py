"""`report.md`: results first, then published numbers, what went wrong, provenance and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from sau_bench.benchmark.report.pair import Pair, title_of
from sau_bench.benchmark.report.remarks import (
    Source,
    attention,
    made_by,
    notes,
    pointer,
    provenance,
)
from sau_bench.benchmark.report.render import Table

LAST = ("cost", "effect")
"""Tables that follow the figures."""


def markdown(title: str, pairs: Sequence[Pair], source: Source | None) -> str:
    """The text of `report.md`."""
    steps = pd.concat([frame for pair in pairs for frame in (pair.rows, pair.clean)]).sort_index()
    selected = pd.concat([pair.selected for pair in pairs])
    clean = [pair.clean for pair in pairs if len(pair.clean)]
    runs = pd.concat([selected, *clean]) if clean else selected
    parts = [f"# {title}", *pointer(runs)]
    for pair in pairs:
        parts += [f"## {pair.title}", *_results(pair)]
    if any(pair.beside for pair in pairs):
        parts.append("## Published numbers")
        for pair in pairs:
            where = f": {pair.title}" if len(pairs) > 1 else ""
            for name, table in pair.beside.items():
                parts += [f"### {title_of(name)}{where}", table.markdown().strip()]
    parts += [*attention(runs), *provenance(steps, selected), *made_by(source), *notes(runs)]
    return "\n\n".join(parts) + "\n"


def _results(pair: Pair) -> Iterator[str]:
    late = {name: pair.tables[name] for name in LAST if name in pair.tables}
    for name, table in pair.tables.items():
        if name not in late:
            yield from _section(name, table)
    if pair.no_test:
        yield from ("### Tests", pair.no_test)
    if pair.figures:
        yield "### Figures"
    for name, files in pair.figures.items():
        yield from (f"![{title_of(name)}]({file})" for file in files)
        yield f"*{pair.caption(name)}*"
    for name, table in late.items():
        yield from _section(name, table)


def _section(name: str, table: Table) -> tuple[str, str]:
    return f"### {title_of(name)}", table.markdown().strip()
