"""The verb `export`: victims, poisoned images and scores in the layout of BackdoorBench."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from sau_bench.benchmark.cache.store import Store
    from sau_bench.benchmark.data import Images
    from sau_bench.benchmark.grid.grid import Grid
    from sau_bench.benchmark.jobs.job import AttackJob

SCORES = {"acc": "test_acc", "asr": "test_asr", "racc": "test_ra"}
"""Columns of rows, and what they are called there."""


def export(arguments: argparse.Namespace) -> int:
    """Write a folder for each finished victim, and print their paths."""
    from sau_bench.benchmark.cli.find import find_parts

    parts, store, data = find_parts(arguments)
    written: list[Path] = []
    for table, grid in parts:
        for victim in grid.victims:
            folder = arguments.folder / _name(grid, victim)
            if victim.key in store and folder not in written:
                _check(victim, folder)
                rows = _rows(grid, victim, store)
                write_victim(victim, store, data, folder)
                write_scores(rows, table.grid.rules(table.config.select), folder)
                written.append(folder)
    if not written:
        raise InputError(f"no victim of {arguments.config} is finished; first: run it")
    for folder in written:
        print(folder)
    return 0


def _name(grid: Grid, victim: AttackJob) -> str:
    place = grid.place(victim, None)
    return _slug("_".join(str(place[axis]) for axis in ("attack", "dataset", "model", "seed")))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_")


def _check(victim: AttackJob, folder: Path) -> None:
    if len(victim.attack.parts) > 1:
        raise InputError(
            f"{victim.attack.label} has several triggers, for which the layout has no place; leave "
            "it out by --only"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; accepted: a folder that does not hold it")


def write_victim(victim: AttackJob, store: Store, data: Path, folder: Path) -> None:
    """`attack_result.pt`, written last, and the images beside it.

    data: folder of the datasets.
    """
    import torch

    from sau_bench.benchmark import backdoorbench as layout
    from sau_bench.benchmark.jobs.networks import load_victim
    from sau_bench.benchmark.plugin import plugin_name

    model, tensors = load_victim(victim, store, torch.device("cpu"))
    task = victim.dataset(data)
    channels, height, width = victim.dataset.shape
    wanted = victim.attack.relabel(task.test.y, model.num_classes)
    rows = (wanted != task.test.y).nonzero()[:, 0]
    train = None
    if "train.rows" in tensors:
        images = tensors["train.x"], tensors["train.y"]
        train = _write(folder, layout.TRAIN, task.train, tensors["train.rows"], *images)
    names = layout.reference_names(model.body)
    weights = model.body.state_dict()
    dataset = plugin_name(victim.dataset)
    content = {
        "model_name": layout.network_name(plugin_name(victim.architecture), names),
        "num_classes": model.num_classes,
        "model": {theirs: weights[ours] for ours, theirs in names.items()},
        "data_path": f"./data/{layout.DATASETS.get(dataset, dataset)}",
        "img_size": (height, width, channels),
        "clean_data": layout.DATASETS.get(dataset, dataset),
        "bd_train": train,
        "bd_test": _write(
            folder, layout.TEST, task.test, rows, tensors["test.x"], tensors["test.wanted"]
        ),
    }
    torch.save(content, folder / layout.RESULT)


def _write(
    folder: Path, kind: str, split: Images, rows: Tensor, x: Tensor, wanted: Tensor
) -> dict[str, object]:
    """Images of some rows as PNG, and what the `.pt` file says of them. wanted: their labels."""
    from PIL import Image

    from sau_bench.benchmark import backdoorbench as layout

    true = split.y[rows].tolist()
    for row, label, image in zip(rows.tolist(), true, x.permute(0, 2, 3, 1).numpy(), strict=True):
        file = folder / kind / str(label) / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file)
    place = f"./record/{folder.name}/{kind}"
    return layout.state(rows.tolist(), true, wanted.tolist(), len(split), place)


def _rows(grid: Grid, victim: AttackJob, store: Store) -> DataFrame:
    rows = grid.rows(store)
    return rows[rows["victim"] == victim.key]


def write_scores(rows: DataFrame, rules: dict[str, str], folder: Path) -> None:
    """Our rows, and the scores that count in tables of its form: a row "last" of three shares."""
    from sau_bench.benchmark.report.read import read_rows
    from sau_bench.benchmark.report.tables import select
    from sau_bench.benchmark.rows import UNDEFENDED

    rows.to_csv(folder / "rows.csv", index=False)
    selected = select(read_rows(folder / "rows.csv"), rules)
    for _, row in selected.iterrows():
        undefended = row["defense"] == UNDEFENDED
        name = "attack" if undefended else _slug(row["defense"])
        where = folder if undefended else folder / "defense" / name
        where.mkdir(parents=True, exist_ok=True)
        scores = row[list(SCORES)].rename(SCORES).rename("last").to_frame().T
        scores.to_csv(where / f"{name}_df_summary.csv")
