"""Imported: a victim that BackdoorBench has trained (Wu et al., NeurIPS 2022, arXiv 2206.12654)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sau_bench.attacks.base import NoPoisonedSet, Tensors, Trigger, no_trigger
from sau_bench.attacks.files import FromFiles, check_rows
from sau_bench.benchmark.backdoorbench import (
    RESULT,
    TEST,
    TRAIN,
    Result,
    load_weights,
    read_result,
)
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.image_files import ImageFiles
from sau_bench.benchmark.train import Recipe
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Imported(FromFiles):
    """The weights of a folder with `attack_result.pt`, and the poisoned images beside it.

    Nothing is trained and no code of the folder is run (`benchmark.backdoorbench`). The dataset has
    to be that of the folder, in the same order, which the labels of the images tell, and the
    architecture of the same names and shapes: PreAct-ResNet18 and VGG19 of width 64, or a network
    of timm or torchvision.

    folder: path of the folder.

    Note: the folder says nothing of how the victim was trained; `recipe` is not used. One without a
    poisoned training set can be defended by all methods but those that need it.
    """

    name: ClassVar[str] = "Imported"
    contents: ClassVar[tuple[str, ...]] = (RESULT, TEST)
    counted: ClassVar[tuple[str, ...]] = (RESULT, TEST, TRAIN)

    @property
    def result(self) -> Result:
        return read_result(Path(self.folder), self.digest)

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        train = self.result.train
        rows = torch.arange(0) if train is None else train.files.rows
        return rows.to(y.device)

    def __call__(
        self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe, asset: Tensors
    ) -> Trigger:
        result = self.result
        if result.num_classes != model.num_classes:
            raise InputError(
                f"the folder has {result.num_classes} classes of {result.dataset!r}, the dataset "
                f"of this grid {model.num_classes}; accepted: the same dataset"
            )
        load_weights(model.body, result)
        return no_trigger

    def test_files(self, num_classes: int) -> tuple[ImageFiles, Tensor | None]:
        return self.result.test.files, self.result.test.wanted

    def replacements(self, train: Images, num_classes: int) -> tuple[Tensor, Images]:
        if (poisoned := self.result.train) is None:
            raise NoPoisonedSet("the folder has no poisoned training set")
        files, device = poisoned.files, train.y.device
        check_rows(files, train, "training")
        x = files.pixels(tuple(train.x.shape[1:])).to(device)
        return files.rows.to(device), replace(train, x=x, y=poisoned.wanted.to(device))
