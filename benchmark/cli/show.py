"""The verb `show`: contact sheets of what each attack of a grid does to an image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.options import results_folder
from sau_bench.benchmark.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from sau_bench.attacks.base import Trigger
    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.data import Images
    from sau_bench.benchmark.grid.grid import Grid
    from sau_bench.benchmark.jobs.job import AttackJob
    from sau_bench.benchmark.report.sheet import Examples


def show(arguments: argparse.Namespace) -> int:
    """Write the contact sheets of the victims that are finished, and print their paths."""
    from sau_bench.benchmark.cli.find import find_parts

    parts, store, data = find_parts(arguments)
    files, unseen = [], []
    for table, grid in parts:
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

    from sau_bench.benchmark.jobs.networks import make_model

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
    """A PDF and a PNG for each dataset, model and seed, of the attacks whose triggers are known."""
    from sau_bench.benchmark.report.canvas import save
    from sau_bench.benchmark.report.sheet import contact_sheet

    groups: dict[tuple[str, str, int], list[AttackJob]] = {}
    for victim, defended in grid.cells():
        if defended is None and is_known(victim, store):
            place = grid.place(victim, None)
            group = (place["dataset"], place["model"], victim.seed)
            groups.setdefault(group, []).append(victim)
    files = []
    for names, victims in groups.items():
        suffix = "".join(f"_{name}" for name in names) if len(groups) > 1 else ""
        stem = folder / ("attacks" + "".join(c if c.isalnum() else "_" for c in suffix))
        labels = [grid.place(v, None)["attack"] for v in victims]
        files += save(contact_sheet(examples_of(victims, labels, store, data)), stem)
    return files


def examples_of(
    victims: list[AttackJob], labels: list[str], store: Store, data: Path, count: int = 4
) -> list[Examples]:
    """Of each trigger the first test images of `count` classes, without and with it."""
    import numpy as np

    from sau_bench.benchmark.report.sheet import Examples

    test = victims[0].dataset(data).test
    examples = []
    for victim, label in zip(victims, labels, strict=True):
        images, part_of = triggered_test(victim, store, test)
        for number, part in enumerate(victim.attack.parts):
            wanted = part.relabel(test.y, victim.dataset.num_classes)
            rows = (wanted != test.y).nonzero()[:, 0]
            triggered = images[part_of == number]
            first = [int((test.y[rows] == c).nonzero()[0]) for c in test.y[rows].unique()[:count]]
            both = (test.x[rows[first]], triggered[first])
            clean, poisoned = (np.asarray(x.permute(0, 2, 3, 1)) for x in both)
            name = label if part == victim.attack else f"{label}: {part.label}"
            examples.append(Examples(name, clean, poisoned))
    return examples
