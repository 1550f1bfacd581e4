"""Folder: poisoned images in files, as any program writes them; the victim is trained here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from sau_bench.attacks.base import Tensors, Trigger, no_trigger
from sau_bench.attacks.files import FromFiles, check_rows
from sau_bench.benchmark.data import Images, replaced
from sau_bench.benchmark.image_files import ImageFiles, class_folders
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.models.classifier import Classifier

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, kw_only=True)
class Folder(FromFiles):
    """Train on the dataset with the images of `train/CLASS/ROW.png` in place of its own.

    CLASS in `train` is the label that an image is trained with; images without a file stay clean.
    CLASS in `test/CLASS/ROW.png` is the true class of a triggered test image, and `labels` and
    `target` say which class the attacker wants. Class folders are numbers, or the names of all
    classes in alphabetical order (torchvision's ImageFolder). The last number in a file's name is
    the row of the image in the training or the test set. Images have the size of the dataset's; PNG
    keeps every pixel, JPEG does not.

    folder: path of the folder.
    """

    name: ClassVar[str] = "Folder"
    contents: ClassVar[tuple[str, ...]] = (TRAIN, TEST)
    counted: ClassVar[tuple[str, ...]] = contents

    def draw(self, y: Tensor, seed: int, taken: Tensor | None = None) -> Tensor:
        classes = int(y.max()) + 1
        return class_folders(Path(self.folder, TRAIN), classes).rows.to(y.device)

    def replacements(self, train: Images, num_classes: int) -> tuple[Tensor, Images]:
        files = class_folders(Path(self.folder, TRAIN), num_classes)
        check_rows(files, train, "training", labels=False)
        device = train.y.device
        x = files.pixels(tuple(train.x.shape[1:])).to(device)
        return files.rows.to(device), replace(train, x=x, y=files.classes.to(device))

    def __call__(
        self, model: Classifier, train: Images, rows: Tensor, recipe: Recipe, asset: Tensors
    ) -> Trigger:
        with replaced(train, *self.replacements(train, model.num_classes)):
            train_model(model, train, recipe)
        return no_trigger

    def test_files(self, num_classes: int) -> tuple[ImageFiles, Tensor | None]:
        return class_folders(Path(self.folder, TEST), num_classes), None
