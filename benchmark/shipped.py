"""What comes with the code: configs and published numbers, in a clone as in an installed package.

Does not import torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sau_bench.benchmark.errors import InputError, listed, nearest, shown

# Not resolved: in a clone `sau_bench` has links to the folders of the top level.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs"
PAPER = _PACKAGE / "paper"
"""The folder of the published numbers; its README describes the files."""


def config_names() -> list[str]:
    """The names of the configs that are shipped, such as "paper/table3"."""
    files = sorted(CONFIGS.rglob("*.yaml"), key=lambda file: (len(file.parts), file))
    return [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in files]


def shipped_configs() -> list[Path]:
    """The files of the configs that are shipped."""
    return [_seen_from_here(CONFIGS / f"{name}.yaml") for name in config_names()]


def find_config(text: str) -> Path:
    """The file of a config that is named by its path, or by the name of one that is shipped.

    A path counts more; whether there is such a file is known when it is read.

    Raises:
        InputError: neither a path nor a name.
    """
    path, names = Path(text), config_names()
    if _is_there(path):
        return path
    if text in names:
        return _seen_from_here(CONFIGS / f"{text}.yaml")
    meant = text.removesuffix(".yaml").removeprefix("configs/")
    if path.suffix in (".yaml", ".yml") and meant not in names:
        return path
    raise InputError(
        f"no config {shown(text, 200)}; accepted: the path of a file, or {listed(names)}"
        f"{nearest(meant, names)}"
    )


def command() -> str:
    """What this program was called by, for texts that advise a command."""
    return "python run_grid.py" if Path(sys.argv[0]).name == "run_grid.py" else "sau-bench"


def _is_there(path: Path) -> bool:
    """Whether anything but a folder has this path: results may have the name of their config."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False


def _seen_from_here(path: Path) -> Path:
    """The path of a file as one types it, where that is below the working directory."""
    real = path.resolve()
    try:
        return real.relative_to(os.getcwd())
    except ValueError:
        return real
