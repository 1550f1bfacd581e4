"""The verb `show`: contact sheets of what each attack of a grid does to an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.options import cache_folder, check_folders, data_folder, results_folder
from sau_bench.benchmark.errors import InputError

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.grid import Grid
    from sau_bench.benchmark.jobs.job import AttackJob
    from sau_bench.benchmark.report.sheet import Trigger


def show(arguments: argparse.Namespace) -> int:
    """Write the contact sheets of the victims that are finished, and print their paths."""
    from sau_bench.benchmark.cache.clean import check_files
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.grid.grid import filtered, make_tables

    tables = make_tables(arguments.config)
    grids = filtered([table.grid for table in tables], arguments.only)
    check_folders(arguments, [table.file for table in tables])
    data = data_folder(arguments, tables[0].config.data)
    store = Store(cache_folder(arguments))
    check_files(store)
    files = []
    for table, grid in zip(tables, grids, strict=True):
        folder = results_folder(arguments, table.file) / "figures"
        files += contact_sheets(grid, store, data, folder)
    if not files:
        raise InputError(f"no victim of {arguments.config} is finished; first: run it")
    for file in files:
        print(file)
    return 0


def contact_sheets(grid: Grid, store: Store, data: Path, folder: Path) -> list[Path]:
    """A PDF and a PNG for each dataset, model and seed with the attacks that are finished."""
    from sau_bench.benchmark.report.canvas import save
    from sau_bench.benchmark.report.sheet import contact_sheet

    groups: dict[tuple[str, str, int], list[AttackJob]] = {}
    for victim, defended in grid.cells():
        if defended is None and victim.key in store:
            place = grid.place(victim, None)
            group = (place["dataset"], place["model"], victim.seed)
            groups.setdefault(group, []).append(victim)
    files = []
    for names, victims in groups.items():
        suffix = "".join(f"_{name}" for name in names) if len(groups) > 1 else ""
        stem = folder / ("attacks" + "".join(c if c.isalnum() else "_" for c in suffix))
        labels = [grid.place(v, None)["attack"] for v in victims]
        files += save(contact_sheet(triggers_of(victims, labels, store, data)), stem)
    return files


def triggers_of(
    victims: list[AttackJob], labels: list[str], store: Store, data: Path, count: int = 4
) -> list[Trigger]:
    """Each trigger of the victims with the first test images of `count` classes."""
    import numpy as np

    from sau_bench.benchmark.report.sheet import Trigger

    test = victims[0].dataset(data).test
    triggers = []
    for victim, label in zip(victims, labels, strict=True):
        tensors = store.tensors(victim.key)
        for number, part in enumerate(victim.attack.parts):
            wanted = part.relabel(test.y, victim.dataset.num_classes)
            rows = (wanted != test.y).nonzero()[:, 0]
            triggered = tensors["test.x"][tensors["test.part"] == number]
            first = [int((test.y[rows] == c).nonzero()[0]) for c in test.y[rows].unique()[:count]]
            images = (test.x[rows[first]], triggered[first])
            clean, poisoned = (np.asarray(x.permute(0, 2, 3, 1)) for x in images)
            name = label if part == victim.attack else f"{label}: {part.label}"
            triggers.append(Trigger(name, clean, poisoned))
    return triggers
