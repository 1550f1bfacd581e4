"""Which config the rows of a results folder are of."""

from __future__ import annotations

import os
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
