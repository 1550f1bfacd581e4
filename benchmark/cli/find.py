"""The cells of a config by the names that a table has for them; without torch (`standins`)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sau_bench.benchmark.cache.clean import check_files
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.options import cache_folder, check_folders, data_folder
from sau_bench.benchmark.errors import InputError, listed, shown
from sau_bench.benchmark.grid.grid import Grid, Table, filtered, make_tables
from sau_bench.benchmark.grid.labels import filters_of
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.plugin import Plugin, plugin_name
from sau_bench.benchmark.rows import AXES


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its victim, and what defends it."""

    table: Table
    victim: AttackJob
    defended: DefenseJob | None

    @property
    def job(self) -> AttackJob | DefenseJob:
        return self.defended or self.victim

    @property
    def place(self) -> Mapping[str, Any]:
        """Its label on each axis."""
        return self.table.grid.place(self.victim, self.defended)

    @property
    def plugins(self) -> dict[str, Plugin]:
        """Its plugins by axis; none for the axis "defense" of a victim."""
        victim = self.victim
        plugins: dict[str, Plugin] = {
            "dataset": victim.dataset,
            "model": victim.architecture,
            "attack": victim.attack,
        }
        return plugins | ({"defense": self.defended.defense} if self.defended else {})

    def is_called(self, names: Mapping[str, set[str]]) -> bool:
        """Whether on each axis it has one of the names, of its plugin or its label there."""
        own = {axis: {str(label)} for axis, label in self.place.items()}
        for axis, plugin in self.plugins.items():
            own[axis].add(plugin_name(plugin))
        return all(own[axis] & wanted for axis, wanted in names.items())


def one_cell(config: Path, only: Sequence[str], flag: str = "only") -> Cell:
    """The one cell that names select; one that several tables of the config have counts once.

    Args:
        config: one table, or several.
        only: texts such as "attack=badnets,defense=SAU", with names of plugins or labels of the
            tables; "defense=No Defense" is the victim.
        flag: what errors call `only`.

    Raises:
        InputError: the names select no cell or several.
    """
    names = filters_of(only, flag)
    cells = [
        Cell(table, victim, defended)
        for table in make_tables(config)
        for victim, defended in table.grid.cells()
    ]
    by_job: dict[AttackJob | DefenseJob, Cell] = {}
    for cell in cells:
        if cell.is_called(names):
            by_job.setdefault(cell.job, cell)
    found = list(by_job.values())
    if len(found) != 1:
        text = f"{shown(', '.join(only), 200)} selects {len(found)} cells, accepted: one"
        raise InputError(text + _differences(found or cells))
    return found[0]


def find_cell(config: Path, only: Sequence[str]) -> AttackJob | DefenseJob:
    """The job of the one cell that names select, see `one_cell`."""
    return one_cell(config, only).job


def _differences(cells: Sequence[Cell]) -> str:
    """What to choose from: the labels of the axes in which cells differ."""
    parts = []
    for axis in AXES:
        labels = list(dict.fromkeys(str(cell.place[axis]) for cell in cells))
        if len(labels) > 1:
            parts.append(f"; {axis}: {listed(labels)}")
    return "".join(parts)


def find_parts(arguments: argparse.Namespace) -> tuple[list[tuple[Table, Grid]], Store, Path]:
    """The tables of a config with the part of each that `--only` names, the cache, and the data.

    Raises:
        InputError: of the config, the names or the folders.
    """
    tables = make_tables(arguments.config)
    grids = filtered([table.grid for table in tables], arguments.only)
    check_folders(arguments, [table.file for table in tables])
    store = Store(cache_folder(arguments))
    check_files(store)
    data = data_folder(arguments, tables[0].config.data)
    return list(zip(tables, grids, strict=True)), store, data
