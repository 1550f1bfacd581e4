"""The rows of a results folder: whose they are, and what a run may replace."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.origins import ORIGIN, origin_of, usual
from sau_bench.benchmark.cli.reports import is_current, write_report
from sau_bench.benchmark.errors import InputError, printable
from sau_bench.benchmark.rows import AXES, COLUMNS, LATER_COLUMNS, NO_RESULT, Row

if TYPE_CHECKING:
    import pandas as pd

    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.grid.grid import Grid

NOTE = 20_000
"""Characters of a cell of `rows.csv`."""


@dataclass(frozen=True)
class Contents:
    """What the cache holds of a grid.

    rows: all text, of all cells; one that says why for each cell without a result. labels: of each
    job on the axes of the grid, by key, in the order of the grid: rows that are not in the cache
    get them, since the grid may have grown.
    """

    rows: pd.DataFrame
    labels: Mapping[str, Mapping[str, object]]


def contents_of(grid: Grid, store: Store) -> Contents:
    """What the cache holds of a grid."""
    import pandas as pd

    from sau_bench.benchmark.run.failures import recorded

    stream = io.StringIO(grid.rows(_Cleaned(store), partial(recorded, store)).to_csv(index=False))
    rows = pd.read_csv(stream, dtype=str, keep_default_na=False)
    return Contents(rows, {job.key: place for job, place in grid.places.items()})


def check_rows(folder: Path, config: Path, keys: Callable[[], Collection[str]]) -> None:
    """Check that the rows in a results folder are of this config.

    They are if the folder says so, as that config may have been edited since, or if all of them
    are of its jobs. A folder that says nothing belongs to the config of its name in `configs/`.

    keys: of all jobs of the config's grid.

    Raises:
        InputError: they are of another config of the same name, or cannot be read.
    """
    if (old := read_text(folder / "rows.csv")) is None:
        return
    try:
        origin = (folder / ORIGIN).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        origin = usual(folder, config)
    if origin != origin_of(folder, config) and (other := set(old["key"]) - set(keys())):
        raise InputError(
            f"{folder} holds rows of another config, {origin!r}, and {len(other)} of its "
            f"{old['key'].nunique()} jobs are not in {config}: rename the config, use another "
            "--results, or remove the folder"
        )


def claim_rows(folder: Path, config: Path) -> None:
    """Note whose rows the folder holds; nothing can be written into it if this cannot.

    Raises:
        OSError: the folder cannot be made, or nothing can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = origin_of(folder, config)
    (folder / ORIGIN).write_text(origin + "\n", encoding="utf-8")
    if origin == usual(folder, config):
        (folder / ORIGIN).unlink()


def write_rows(
    contents: Contents, folder: Path, config: Config, file: Path, again: Collection[str] = ()
) -> None:
    """Write `rows.csv` of all cells and the report; nothing when none is finished.

    Rows that are in the file already, and whose jobs are of the grid but not in the cache, stay:
    they may be of another machine. A report of the very rows is left as it is. file: of the config.
    again: keys of jobs whose earlier rows were given up.
    """
    import pandas as pd

    rows, order = contents.rows, {key: i for i, key in enumerate(contents.labels)}
    if (old := read_text(folder / "rows.csv")) is not None:
        new = {*rows.loc[~rows["status"].isin(NO_RESULT), "key"], *again}
        stays = old[~old["status"].isin(NO_RESULT)]
        stays = stays[~stays["key"].isin(new) & stays["key"].isin(order)]
        rows = rows[~rows["key"].isin(stays["key"])]
        lost = old[~old["key"].isin(order)]["key"].nunique()
        if lost:
            print(f"{folder / 'rows.csv'}: dropped {lost} jobs that are no longer in the grid")
        parts = [part for part in (rows, _labelled(stays, contents.labels)) if len(part)]
        rows = pd.concat([*parts, rows[:0]]).fillna("")
        rows = rows.sort_values("key", key=lambda keys: keys.map(order), kind="stable")
        rows = rows[[c for c in rows if c in COLUMNS or (rows[c] != "").any()]]
    if rows["status"].isin(NO_RESULT).all():
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = rows.to_csv(index=False).encode()
    if old is None or (folder / "rows.csv").read_bytes() != text:
        draft = folder / f".rows.{os.getpid()}.csv"  # another run may write them at this moment
        draft.write_bytes(text)
        draft.replace(folder / "rows.csv")
    if is_current(folder, file):
        print(f"{folder / 'report.md'} is up to date")
    else:
        write_report(folder, config, file)


def read_text(file: Path) -> pd.DataFrame | None:
    """The rows of a file as text; None without one.

    Raises:
        InputError: they are not as this version of the software writes them.
    """
    import pandas as pd

    if not os.path.lexists(file):
        return None
    advice = "move it away, and what the cache holds is written anew"
    if not file.is_file():
        raise InputError(f"{file} is no file: {advice}")
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # of pandas' errors all are ValueErrors
        text = printable(" ".join(str(error).split()), 200)
        raise InputError(f"{file} cannot be read ({text}): {advice}") from None
    for name in LATER_COLUMNS:
        rows[name] = rows.get(name, "")
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise InputError(f"{file} lacks the columns {', '.join(missing)}: {advice}")
    return rows


class _Cleaned:
    """Results without text that cannot be written into a file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __contains__(self, key: str) -> bool:
        return key in self._store

    def rows(self, key: str) -> list[Row]:
        return [
            {k: printable(v, NOTE) if isinstance(v, str) else v for k, v in row.items()}
            for row in self._store.rows(key)
        ]


def _labelled(rows: pd.DataFrame, labels: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    places = [labels[key] for key in rows["key"]]
    return rows.assign(
        **{
            axis: [str(p.get(axis, old)) for p, old in zip(places, rows[axis], strict=True)]
            for axis in AXES
        }
    )
