"""Shared by attacks whose poisoned images are files: which rows they are of, and what they are
checked against."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sau_bench.attacks.base import Attack, Trigger
from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.errors import InputError, shown
from sau_bench.benchmark.image_files import ImageFiles, content_digest
from sau_bench.benchmark.metrics import Poisoned
from sau_bench.benchmark.train import Recipe


@dataclass(frozen=True, kw_only=True)
class FromFiles(Attack):
    """An attack whose poisoned images are files below `folder`, each of a row of the dataset.

    There is a triggered test image for every test image whose class is not the wanted one. `ratio`
    is not set but counted: training images that the files change.

    folder: path; in the key its content counts, not its name.
    """

    from_files: ClassVar[bool] = True
    contents: ClassVar[tuple[str, ...]]
    """The files and folders below `folder` that are needed."""
    counted: ClassVar[tuple[str, ...]]
    """The files and folders below `folder` that the key depends on."""

    folder: str = ""
    ratio: float = field(init=False, default=0.1)

    def check(self, dataset: Dataset, recipe: Recipe) -> None:
        missing = [name for name in self.contents if not Path(self.folder, name).exists()]
        if not self.folder or missing:
            raise ValueError(
                f"folder is {shown(self.folder, 200)}, accepted: one with "
                f"{' and '.join(self.contents)}"
            )

    @property
    def label(self) -> str:
        return " ".join(filter(None, (super().label, Path(self.folder).name)))

    @property
    def digest(self) -> str:
        """Of what `counted` names."""
        return content_digest(Path(self.folder), *self.counted) if self.folder else ""

    def canonical(self) -> dict[str, Any]:
        fields = {name: value for name, value in super().canonical().items() if name != "ratio"}
        return fields | {"folder": self.digest}

    @abstractmethod
    def test_files(self, num_classes: int) -> tuple[ImageFiles, Tensor | None]:
        """Triggered test images with their true classes, and the wanted classes if they are known.

        Raises:
            InputError: what is wrong with the folder.
        """

    @abstractmethod
    def replacements(self, train: Images, num_classes: int) -> tuple[Tensor, Images]:
        """Rows of the training set, int64 (p,), and what stands there in the poisoned one.

        Raises:
            InputError: what is wrong with the folder.
            NoPoisonedSet: it does not say.
        """

    def poisoned_set(
        self, train: Images, rows: Tensor, trigger: Trigger, num_classes: int, batch_size: int
    ) -> Images:
        rows, others = self.replacements(train, num_classes)
        x, y = train.x.clone(), train.y.clone()
        x[rows], y[rows] = others.x, others.y
        return replace(train, x=x, y=y)

    def poisoned_test(self, test: Images, trigger: Trigger, num_classes: int) -> Poisoned:
        files, wanted = self.test_files(num_classes)
        check_rows(files, test, "test")
        goals = self.relabel(test.y, num_classes).cpu()
        if wanted is not None and len(wrong := (wanted != goals[files.rows]).nonzero()):
            at = int(wrong[0])
            raise InputError(
                f"{files.paths[at]}: the folder wants class {int(wanted[at])}, the attack's labels "
                f"and target say {int(goals[files.rows[at]])}; accepted: the same"
            )
        rows = (goals != test.y.cpu()).nonzero()[:, 0]
        if len(missing := rows[~torch.isin(rows, files.rows)]):
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(rows)} triggered test images are missing, "
                f"such as that of row {int(missing[0])}; accepted: one for each test image whose "
                "class is not the wanted one"
            )
        x = select(files, torch.isin(files.rows, rows)).pixels(tuple(test.x.shape[1:]))
        data = Images(x, test.y.cpu()[rows], test.flips)
        return Poisoned(data, goals[rows], torch.zeros_like(rows)).to(test.y.device)


def select(files: ImageFiles, kept: Tensor) -> ImageFiles:
    """Some of the images. kept: bool (N,)."""
    paths = tuple(path for path, keep in zip(files.paths, kept.tolist(), strict=True) if keep)
    return ImageFiles(files.rows[kept], files.classes[kept], paths)


def check_rows(files: ImageFiles, data: Images, split: str, *, labels: bool = True) -> None:
    """Refuse rows that are not in the split and, if asked, classes that are not those of the rows.

    Raises:
        InputError: names the first file that does not fit.
    """
    y = data.y.cpu()
    for row, path in zip(files.rows.tolist(), files.paths, strict=True):
        if row >= len(y):
            raise InputError(f"{path}: accepted: rows 0 to {len(y) - 1} of the {split} set")
    wrong = (y[files.rows] != files.classes).nonzero()[:, 0]
    if labels and len(wrong):
        at = int(wrong[0])
        raise InputError(
            f"{files.paths[at]} is of class {int(files.classes[at])}, row {int(files.rows[at])} of "
            f"the {split} set of class {int(y[files.rows[at]])}; accepted: the same dataset in the "
            "same order"
        )
