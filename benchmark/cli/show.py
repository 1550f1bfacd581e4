"""The verb `show`: contact sheets of what each attack of a grid does to an image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.options import cache_folder, check_folders, data_folder, results_folder
from sau_bench.benchmark.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from sau_bench.attacks.base import Trigger
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.data import Images
    from sau_bench.benchmark.grid.grid import Grid
    from sau_bench.benchmark.jobs.job import AttackJob


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
    files, unseen = [], []
    for table, grid in zip(tables, grids, strict=True):
        folder = results_folder(arguments, table.file) / "figures"
        unseen += [victim for victim in grid.victims if not is_known(victim, store)]
        files += contact_sheets(grid, store, data, folder)
    for victim in unseen:
        what = "its asset" if victim.attack.asset else "the training"
        print(f"no images of {victim}: {what} makes its trigger; first: run it", file=sys.stderr)
    if not files:
        raise InputError(f"no attack of {arguments.config} can be shown; first: run it")
    for file in files:
        print(file)
    return 0


def is_known(victim: AttackJob, store: Store) -> bool:
    """Whether the trigger is known: the victim is trained, or it does not depend on that."""
    return victim.key in store or preview(victim, store) is not None


def preview(victim: AttackJob, store: Store) -> Trigger | None:
    """The trigger without the training, drawn as a run draws it; None if that makes it."""
    import torch

    from sau_bench.benchmark.jobs.run_job import make_model

    asset = None
    if victim.asset and victim.asset.key in store:
        asset = store.tensors(victim.asset.key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(victim.seed)
        make_model(victim, torch.device("cpu"))  # what drawing it takes from the generator
        return victim.attack.preview(victim.dataset.shape[-1], asset)


def triggered_test(victim: AttackJob, store: Store, test: Images) -> tuple[Tensor, Tensor]:
    """Triggered test images, uint8 (M, C, H, W), and the part of the attack of each, int64 (M,).

    Of a victim that is trained its own, else those of the preview.
    """
    if victim.key in store:
        tensors = store.tensors(victim.key)
        return tensors["test.x"], tensors["test.part"]
    from sau_bench.attacks.base import poison_test

    trigger = preview(victim, store)
    assert trigger is not None
    made = poison_test(test, victim.attack, trigger, victim.dataset.num_classes)
    return made.data.x, made.part


def contact_sheets(grid: Grid, store: Store, data: Path, folder: Path) -> list[Path]:
    """One PNG for each dataset, model and seed with the attacks whose triggers are known."""

    import matplotlib.pyplot as plt

    groups: dict[tuple[str, str, int], list[AttackJob]] = {}
    for victim, defended in grid.cells():
        if defended is None and is_known(victim, store):
            place = grid.place(victim, None)
            group = (place["dataset"], place["model"], victim.seed)
            groups.setdefault(group, []).append(victim)
    if groups:
        folder.mkdir(parents=True, exist_ok=True)
    files = []
    for names, victims in groups.items():
        suffix = "".join(f"_{name}" for name in names) if len(groups) > 1 else ""
        file = folder / ("attacks" + "".join(c if c.isalnum() else "_" for c in suffix) + ".png")
        figure = contact_sheet(
            victims, [grid.place(v, None)["attack"] for v in victims], store, data
        )
        figure.savefig(file, dpi=150, metadata={"Software": None})
        plt.close(figure)
        files.append(file)
    return files


def contact_sheet(
    victims: list[AttackJob], labels: list[str], store: Store, data: Path, columns: int = 4
) -> Figure:
    """A row for each trigger: the first test images of `columns` classes, three panels for each."""

    import matplotlib.pyplot as plt
    import numpy as np
    import torch

    test = victims[0].dataset(data).test
    parts = [
        (victim, number, label if part == victim.attack else f"{label}:\n{part.label}")
        for victim, label in zip(victims, labels, strict=True)
        for number, part in enumerate(victim.attack.parts)
    ]
    figure, axes = plt.subplots(
        len(parts), 3 * columns, figsize=(1.1 * 3 * columns, 1.25 * len(parts)), squeeze=False
    )
    for line, (victim, number, label) in zip(axes, parts, strict=True):
        wanted = victim.attack.parts[number].relabel(test.y, victim.dataset.num_classes)
        rows = (wanted != test.y).nonzero()[:, 0]
        images, part_of = triggered_test(victim, store, test)
        triggered = images[part_of == number]
        first = [int((test.y[rows] == c).nonzero()[0]) for c in test.y[rows].unique()[:columns]]
        for at, i in enumerate(first):
            clean, poisoned = test.x[rows[i]].int(), triggered[i].int()
            change = poisoned - clean
            gain = 255 / max(1, int(change.abs().max()))
            panels = [clean, poisoned, (128 + change * gain / 2).clamp(0, 255)]
            titles = ["clean", "poisoned", f"difference x {gain / 2:.1f}"]
            for axis, panel, title in zip(line[3 * at :], panels, titles, strict=False):
                colours = panel.to(torch.uint8).expand(3, -1, -1)  # grey images, too
                axis.imshow(np.asarray(colours.permute(1, 2, 0)))
                axis.set_title(title, fontsize=6, pad=2)
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, fontsize=8)
    figure.tight_layout(pad=0.4)
    return figure
