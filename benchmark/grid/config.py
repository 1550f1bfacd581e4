"""A grid as its YAML file says it. Does not import torch, so that reports start fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import EPOCHS, InputError, check_range, shown
from benchmark.grid.document import read_document
from benchmark.plugin import construct

CELLS = 100_000
"""The most cells of a grid; the paper's tables have a few hundred."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One YAML file: every attack x defense x dataset x model x seed of its lists.

    datasets, models, attacks, defenses: plugins, as a name, `name:VALUE`, `{name: {field: value}}`,
    or with the path of a Python file in place of the name. seeds: of everything drawn in a cell;
    one victim of every kind for each seed. recipe: fields of `benchmark.train.Recipe` for the
    victims; the `recipe` of an attack is merged over it. clean_ratio: the defender's share of the
    clean training set, in (0, 1]. score_every: rounds between two points of a learning curve, 1 to
    100,000.
    probes: what is measured with each score beside it, of `benchmark.rows.PROBES`: "risk".
    keep: "defended" keeps the weights of defended models in the cache, of the last round or of all
    candidates (`benchmark.cli.cells` loads them). Jobs with probes or weights are others than those
    without.
    select: selection rules by defense label, instead of those of the plugins. data: folder of the
    datasets, where neither the command line nor the environment names one. clean_model: train a
    model on clean data as well, by `recipe`; its ACC is printed under those of the victims.
    effective_acc: the ACC, in (0, 1), above which a defense counts as effective in the table of
    times to effect (the paper: 0.85 on CIFAR-10, 0.45 on Tiny ImageNet); nine tenths of that of the
    victim when absent. average_collapsed: averages over attacks include victims that are marked as
    collapsed, as those of the paper do (WaNet at 1 %: ASR 12.6 %). deterministic: whether GPUs have
    to use kernels that give the same bits each time; without it they are faster, and a run repeats
    its rows but for rounding. Like the GPU itself it is recorded in the rows and is in no key.
    """

    datasets: list[Any]
    models: list[Any]
    attacks: list[Any]
    defenses: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    recipe: dict[str, Any] = field(default_factory=dict)
    clean_ratio: float = 0.05
    score_every: int = 1
    probes: list[Literal["risk"]] = field(default_factory=list)
    keep: list[Literal["defended"]] = field(default_factory=list)
    select: dict[str, str] = field(default_factory=dict)
    data: str = "data"
    clean_model: bool = False
    effective_acc: float | None = None
    average_collapsed: bool = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("datasets", "models", "attacks", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, accepted: at least one entry")
        check_range(self, "clean_ratio", above=0, most=1)
        check_range(self, "score_every", least=1, most=EPOCHS)
        check_range(self, "effective_acc", above=0, below=1)
        check_range(self, "seeds", least=0, below=2**32)
        for name in ("probes", "keep"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, accepted: each one once")
        if not self.data:
            raise ValueError("data is empty, accepted: the path of a folder")
        entries = (self.datasets, self.models, self.attacks, self.seeds, [None, *self.defenses])
        if (cells := math.prod(map(len, entries))) > CELLS:
            raise ValueError(f"the grid has {cells:,} cells, accepted: at most {CELLS:,}")


def read(path: Path) -> Config:
    """The grid of a YAML file.

    Raises:
        InputError: no such file, not YAML, an unknown key, or an impossible value.
    """
    content = read_document(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys such as 'attacks:', got {shown(content)}")
    config: Config = construct(Config, content, str(path))
    return config
