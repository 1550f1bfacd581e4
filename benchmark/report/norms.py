"""How far triggers move images, beside the norms that the paper prints (tables 11 and 12)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame

from sau_bench.benchmark.errors import InputError, one_line
from sau_bench.benchmark.report.published import Published
from sau_bench.benchmark.report.render import Table
from sau_bench.benchmark.rows import UNDEFENDED

NORMS = {"l1": "L1", "l2": "L2", "linf": "L-inf", "mse": "MSE"}
"""The columns of `trigger_norms.csv` beside `key`, which is that of the victim's job."""
DIGITS = {"l1": 1, "l2": 2, "linf": 3, "mse": 4}


def read_norms(file: Path) -> DataFrame | None:
    """Norms by key of the victim, or None without the file.

    Raises:
        InputError: it is no such table.
    """
    if not file.is_file():
        return None
    try:
        norms = pd.read_csv(file, dtype={"key": str}, encoding="utf-8").set_index("key")
        return norms[list(NORMS)].astype(float)
    except (KeyError, ValueError) as error:  # of pandas' errors all are ValueErrors
        raise InputError(
            f"cannot read {file}: {one_line(error)[:200]}; accepted: what "
            "measurements/trigger_norms.py writes"
        ) from None


def norm_table(norms: DataFrame, selected: DataFrame, published: Published | None) -> Table | None:
    """Mean norms of the triggers of one (dataset, model) pair; None where none was measured.

    Of several seeds the mean and standard deviation.
    """
    victims = selected[(selected["defense"] == UNDEFENDED) & selected["key"].isin(norms.index)]
    if victims.empty:
        return None
    ours = (
        norms.reindex(victims["key"]).set_axis(victims.index).groupby(victims["attack"], sort=False)
    )
    mean, std = ours.mean(), ours.std()
    theirs = DataFrame(np.nan, mean.index, list(NORMS))
    for attack, key in zip(victims["attack"], victims["key"], strict=True):
        for name, value in (published.norms(key) if published else {}).items():
            theirs.loc[attack, name] = value
    text, numbers = DataFrame(index=mean.index), DataFrame(index=mean.index)
    for name, title in NORMS.items():
        spread = std[name].map(lambda s, d=DIGITS[name]: "" if np.isnan(s) else f" ± {s:.{d}f}")
        text[title] = mean[name].map(f"{{:.{DIGITS[name]}f}}".format) + spread
        numbers[title], numbers[f"{title} std"] = mean[name], std[name]
        if theirs[name].notna().any():
            column = theirs[name].map(lambda value: "-" if np.isnan(value) else f"{value:g}")
            text[f"{title} published"], numbers[f"{title} published"] = column, theirs[name]
    numbers["n"] = ours.size()
    what = "Norms of the triggers, means over triggered test images with pixels in [0, 1], beside "
    what += (
        "those of the SAU paper (table 11 for SSBA, table 12 for BadNets, section 4.2 for WaNet)"
    )
    first = victims.iloc[0]
    seeds = ", ".join(map(str, sorted(victims["seed"].unique())))
    several = victims["seed"].nunique() > 1
    over = f"mean ± standard deviation over the seeds {seeds}" if several else f"seed {seeds}"
    caption = f"{what}. {first['dataset']}, {first['model']}; {over}."
    frames = text.rename_axis("Attack").reset_index(), numbers.rename_axis("attack").reset_index()
    notes = _departures(victims, published) if published else ()
    return Table(caption, *frames, DataFrame(), notes, float_format="%.5g")


def _departures(victims: DataFrame, published: Published) -> tuple[str, ...]:
    """A footnote for the attacks whose fields are not the published ones."""
    texts = {}
    for attack, key in zip(victims["attack"], victims["key"], strict=True):
        fields = [d for d in published.nearest(key) if d.part == "attack"]
        if fields and published.norms(key):
            texts[attack] = f"{attack} {', '.join(map(str, fields))}"
    if not texts:
        return ()
    return (f"Other fields than published, which are in brackets: {'; '.join(texts.values())}.",)
