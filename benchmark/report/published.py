"""Measured scores beside published ones, which stand in `results/paper/`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pandas import DataFrame, MultiIndex

from benchmark.report.render import METRICS, Table, caption, cell_lines, mark_notes

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "paper" / "reported_results.csv"
SOURCES = ("SAU23-ok", "SAU23-repaired", "SAU23-unchecked", "BBv1-2022", "BBv2-2025", "BBcsv-2024")
"""Sources that tables cite, the preferred ones first; `results/paper/README.md` describes them."""
SAME_RATIO = 0.1
"""The relative difference up to which two poisoning ratios count as the same."""


def published_table(selected: DataFrame, published: Path) -> Table | None:
    """Measured beside published ACC, ASR and DER, for the cells that have a published value.

    A cell matches on dataset, network (the model's label up to " ("), attack, defense and a
    poisoning ratio within a tenth; of several sources the first of `SOURCES` counts. None without
    a match, or without the file `published`.
    """
    if not published.is_file():
        return None
    dataset, model = selected[["dataset", "model"]].iloc[0]
    network = model.split(" (")[0]
    theirs = pd.read_csv(published)
    here = theirs["dataset"].eq(dataset) & theirs["architecture"].eq(network)
    theirs = theirs[here & theirs["source"].isin(SOURCES)]
    theirs = theirs.sort_values("source", key=lambda source: source.map(SOURCES.index))
    ratios = theirs["poison_ratio"].str.rstrip("%").astype(float) / 100
    measured = selected.groupby("attack")["poison_ratio"].mean()
    matches = {}
    cells = selected[["attack", "defense"]].drop_duplicates()
    for attack, defense in zip(cells["attack"], cells["defense"], strict=True):
        near = (ratios / measured[attack] - 1).abs() <= SAME_RATIO
        hits = theirs[near & theirs["attack"].eq(attack) & theirs["defense"].eq(defense)]
        if len(hits):
            matches[attack, defense] = hits.iloc[0]
    if not matches:
        return None
    lines = MultiIndex.from_tuples(matches, names=["Attack", "Defense"])
    cited = DataFrame(list(matches.values()), index=lines)
    titles = {metric: METRICS[metric] for metric in ("acc", "asr", "der")}
    text, numbers = cell_lines(selected, titles, lines)
    for place, (metric, title) in enumerate(titles.items()):
        values = cited[metric].astype(float)
        numbers.insert(2 * place + 1, f"{title} published", values)
        printed = values.map("{:.2f}".format).where(values.notna(), "-")
        text.insert(2 * place + 1, f"{title} published", printed)
    numbers["Source"] = text["Source"] = cited["source"] + " " + cited["table"]
    what = "Measured beside published, in percent"
    what += f"; the measured network is not the paper's {network}" if network != model else ""
    frames = text.reset_index(), numbers.reset_index(), DataFrame()
    return Table(caption(selected, what), *frames, mark_notes(selected), left=2)
