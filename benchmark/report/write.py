"""Rows to files: every table as CSV, Markdown and LaTeX, every figure as PDF and PNG, one report.

Reads `rows.csv` only: no weights, no GPU, no torch. The same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report import figures, tables
from sau_bench.benchmark.report.critical import critical_difference
from sau_bench.benchmark.report.markdown import markdown
from sau_bench.benchmark.report.norms import read_norms
from sau_bench.benchmark.report.pair import FIGURES, Pair, build, compared, wanted
from sau_bench.benchmark.report.published import Published
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.remarks import Source
from sau_bench.benchmark.report.render import METRICS, Table
from sau_bench.benchmark.report.significance import paired_table, paired_tests, why_no_test
from sau_bench.benchmark.report.webpage import webpage


def report(
    folder: Path,
    rules: Mapping[str, str],
    effective_acc: float | None = None,
    average_collapsed: bool = False,
    published: Published | None = None,
    source: Source | None = None,
    shown: Sequence[str] = tuple(METRICS),
) -> list[Path]:
    """Write tables, figures, `report.html` and `report.md` of `folder/rows.csv` into `folder`.

    `rules` maps a defense's label to the selection rule (`benchmark.report.tables`) that replaces
    the one in the rows. `average_collapsed`: averages include collapsed victims. `published`: what
    the rows are compared with. `source`: where the rows are from. `shown`: metrics, keys of
    `METRICS`. Where `measurements/trigger_norms.py` has put `trigger_norms.csv` beside the rows,
    there is a table of trigger norms. With several (dataset, model) pairs, a pair has subfolders.

    Returns the files, `report.md` the last one.

    Raises:
        InputError: a file that is no table of rows, or an unknown rule.
    """
    rows, norms = read_rows(folder / "rows.csv"), read_norms(folder / "trigger_norms.csv")
    if average_collapsed:
        rows = tables.keep_collapsed(rows)
    attacked = rows["kind"] != "clean"
    try:
        selected = tables.select(rows[attacked], rules)
    except ValueError as error:
        raise InputError(f"{folder / 'rows.csv'}: {error}") from error
    written: list[Path] = []
    groups, looks = (
        selected.groupby(["dataset", "model"], sort=False),
        figures.looks(rows[attacked]),
    )
    pairs: list[Pair] = []
    for (dataset, model), chosen in groups:
        here = (rows["dataset"] == dataset) & (rows["model"] == model)
        steps, clean = rows[here & attacked], rows[here & ~attacked]
        name = re.sub(r"[^a-z0-9]+", "-", f"{dataset} {model}".lower()).strip("-")
        place = name if len(groups) > 1 else ""
        made = build(steps, chosen, clean, effective_acc, shown)
        beside = compared(made, steps, chosen, published, norms, shown)
        drawn = figures.draw(steps, chosen, looks)
        tested = "der" in shown and bool(chosen["der"].notna().any())
        if tested and (tests := paired_tests(chosen)):
            made["tests"] = paired_table(chosen, tests)
            drawn["critical"] = [critical_difference(tests, looks)]
        for name, table in {**made, **beside}.items():
            written += save(table, folder / "tables" / place / name)
        pictures: dict[str, list[str]] = {}
        for name, sheets in drawn.items():
            for number, figure in enumerate(sheets * wanted(name, shown), start=1):
                stem = name if number == 1 else f"{name}-{number}"
                written += figures.save(figure, folder / "figures" / place / stem)
                pictures.setdefault(name, []).append(written[-1].relative_to(folder).as_posix())
        why = why_no_test(chosen) if tested else ""
        pair = Pair(str(dataset), str(model), steps, chosen, clean, made, beside, pictures, why)
        pairs.append(pair)
    optional = [*(folder / "tables").rglob("*.*")]
    for pattern in (f"{name}{number}.*" for name in FIGURES for number in ("", "-[0-9]*")):
        optional += (folder / "figures").rglob(pattern)
    for file in set(optional) - set(written):
        file.unlink()  # a table or figure that these rows no longer have
    title = source.title if source else folder.name
    texts = {
        "report.html": webpage(title, folder, pairs, looks, source, shown),
        "report.md": markdown(title, pairs, source),
    }
    for name, text in texts.items():
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8", newline="\n")
    return written


def save(table: Table, stem: Path) -> list[Path]:
    """`stem`.csv, `stem`.md and `stem`.tex."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        stem.with_suffix(suffix).write_text(text, encoding="utf-8", newline="\n")
    return [stem.with_suffix(suffix) for suffix in texts]
