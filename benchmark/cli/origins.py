"""Which config the rows of a results folder are of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ORIGIN = "config.txt"
"""Names the config of a results folder, seen from that folder."""


def config_of(folder: Path) -> Path | None:
    """The config in `configs/` here that has the name of a results folder, if there is one.

    Not what the folder itself names: it may be somebody else's, and a config names code to execute.
    """
    *above, name = folder.resolve().parts
    inside = above[::-1].index("results") if "results" in above else 0
    file = Path("configs", *above[len(above) - inside :], f"{name}.yaml")
    return file if file.is_file() else None


def usual(folder: Path, config: Path) -> str:
    """The config that a folder belongs to if it does not say so: that of its name in `configs/`.

    config: one whose results the folder may hold; both are as deep below `configs` and `results`.
    """
    folders = config.resolve().parts[:-1]
    depth = 1 + (folders[::-1].index("configs") if "configs" in folders else 0)
    names = folder.resolve().parts[-depth:]
    return Path(*[".."] * (depth + 1), "configs", *names).as_posix() + ".yaml"


def origin_of(folder: Path, config: Path) -> str:
    return Path(os.path.relpath(config.resolve(), folder.resolve())).as_posix()


def results_of(root: Path) -> Iterator[tuple[Path, Path]]:
    """Results folders below a folder, and the config that each is of; not those of smoke runs.

    A folder that names none is of the config of its name in `configs/` here, if there is one.
    """
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if "cache" in folders and folder != root:  # a results folder of its own, with its own cache
            folders.clear()
            continue
        folders[:] = sorted(set(folders) - {"cache"})
        if ORIGIN in files:
            yield folder, folder / (folder / ORIGIN).read_text(encoding="utf-8").strip()
        elif "rows.csv" in files and (config := config_of(folder)):
            yield folder, config
