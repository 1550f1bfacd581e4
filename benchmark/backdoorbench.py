"""Folders of victims in the layout of BackdoorBench: `attack_result.pt` and PNG files beside it.

    NAME/attack_result.pt                     weights, names, and which image is which
    NAME/bd_train_dataset/CLASS/ROW.png       images that differ in the poisoned training set
    NAME/bd_test_dataset/CLASS/ROW.png        triggered test images; CLASS is the true class
    NAME/attack_df_summary.csv                scores; of defenses in defense/METHOD/

The `.pt` file is a pickle, which could run code when it is read. It is read by torch's restricted
unpickler, and numpy's arrays in it become the inert values below: no class or function that the
file names is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sau_bench.benchmark.errors import InputError, listed, one_line, shown
from sau_bench.benchmark.image_files import ImageFiles, sorted_files

RESULT = "attack_result.pt"
TRAIN, TEST = "bd_train_dataset", "bd_test_dataset"
DATASETS = {"tiny_imagenet": "tiny"}
"""What datasets are called there, where they have another name."""
KEYS = ("model_name", "num_classes", "model", "clean_data", "bd_train", "bd_test")


@dataclass(frozen=True)
class PoisonedFiles:
    """Poisoned images of a split. files: with their true classes. wanted: labels, int64 (N,)."""

    files: ImageFiles
    wanted: Tensor


@dataclass(frozen=True)
class Result:
    """A victim of such a folder.

    network, dataset: as the folder calls them. weights: by the names of the folder. train: what
    differs in the poisoned training set, None if the folder does not say. test: triggered images.
    """

    network: str
    dataset: str
    num_classes: int
    weights: Mapping[str, Tensor]
    train: PoisonedFiles | None
    test: PoisonedFiles


@lru_cache(maxsize=1)
def read_result(folder: Path, digest: str) -> Result:
    """The victim of a folder; no image is read yet.

    digest: of the folder's content, so that another content is read anew.

    Raises:
        InputError: the file is missing, damaged, of another form, or would run code.
    """
    content = _load(folder / RESULT)
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{folder / RESULT} has no {listed(missing)}; accepted: {listed(KEYS)}")
    weights = content["model"]
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise InputError(f"{folder / RESULT}: model is no mapping of names to tensors")
    try:
        train = content["bd_train"]
        return Result(
            str(content["model_name"]),
            str(content["clean_data"]),
            int(content["num_classes"]),
            {str(name).removeprefix("module."): value for name, value in weights.items()},
            None if train is None else _files(folder, TRAIN, train),
            _files(folder, TEST, content["bd_test"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{folder / RESULT} is of another form ({type(error).__name__}: {one_line(error)}); "
            "accepted: bd_train and bd_test with images in files, as version 2 writes them"
        ) from None


def reference_names(body: nn.Module) -> dict[str, str]:
    """What the tensors of a network are called there, by their names in `body`, in order.

    The networks of torchvision and timm are called the same; VGG's layers are numbered throughout,
    and a shortcut of PreAct-ResNet is a sequence of one layer.
    """
    numbers: dict[str, str] = {}
    modules = dict(body.named_children())
    blocks = [name for name in (f"block{n}" for n in range(1, 6)) if name in modules]
    if len(blocks) == 5:
        layers = [f"{b}.{name}" for b in blocks for name, _ in modules[b].named_children()]
        numbers = {layer: f"features.{at}" for at, layer in enumerate(layers)}
    names = {}
    for name in body.state_dict():
        layer, _, rest = name.rpartition(".")
        layer = numbers.get(layer, layer)
        layer = re.sub(r"\.shortcut$", ".shortcut.0", layer)
        names[name] = f"{layer}.{rest}"
    return names


def load_weights(body: nn.Module, result: Result) -> None:
    """Give a network, in place, the weights of a folder.

    Raises:
        InputError: names a tensor that only one of the two has, or one of another shape.
    """
    names, ours = reference_names(body), body.state_dict()
    what = f"the folder's {result.network!r}"
    for extra, text in (
        (names.values() - result.weights.keys(), "lacks"),
        (result.weights.keys() - names.values(), "has"),
    ):
        if extra:
            raise InputError(
                f"{what} {text} {shown(min(extra))}, unlike the network of this grid; accepted: "
                "weights of the same network"
            )
    for name, theirs in names.items():
        if (given := result.weights[theirs].shape) != (expected := ours[name].shape):
            raise InputError(
                f"{what}: {theirs} is {'x'.join(map(str, given)) or 'a number'}, the network of "
                f"this grid has {'x'.join(map(str, expected)) or 'a number'}"
            )
    body.load_state_dict({name: result.weights[theirs] for name, theirs in names.items()})


def network_name(plugin: str, names: Mapping[str, str]) -> str:
    """What a network is called there. plugin: of the architecture. names: of its tensors."""
    if plugin == "vgg19":
        return "vgg19_bn" if any("running_mean" in name for name in names) else "vgg19"
    return plugin.replace("preact_resnet", "preactresnet")


def state(
    rows: Sequence[int], true: Sequence[int], wanted: Sequence[int], size: int, folder: str
) -> dict[str, Any]:
    """What the `.pt` file says of a split's poisoned images.

    rows, true, wanted: of each image the row, the class, and the label that the attacker gives it.
    size: images of the split. folder: of these, as their code opens it.
    """
    indicator = np.zeros(size)
    indicator[list(rows)] = 1
    images = {
        row: {"path": f"{folder}/{label}/{row}.png", "other_info": [goal, label]}
        for row, label, goal in zip(rows, true, wanted, strict=True)
    }
    container = {"save_folder_path": folder, "data_dict": images, "save_file_format": ".png"}
    return {
        "bd_data_container": container,
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(size) if folder.endswith(TRAIN) else np.array(rows),
        "poison_indicator": indicator,
        "save_folder_path": folder,
    }


def _files(folder: Path, kind: str, content: Mapping[str, Any]) -> PoisonedFiles:
    used = set(_numbers(content["original_index_array"]))
    found, wanted = [], {}
    for row, entry in content["bd_data_container"]["data_dict"].items():
        if int(row) not in used:
            continue
        # Wherever the folder was written, its images are here.
        tail = PurePosixPath(str(entry["path"]).replace("\\", "/")).parts[-2:]
        if len(tail) < 2 or ".." in tail:
            raise ValueError(f"path {shown(entry['path'])}")
        goal, true = entry["other_info"]
        found.append((int(row), int(true), folder.joinpath(kind, *tail)))
        wanted[int(row)] = int(goal)
    files = sorted_files(found)
    return PoisonedFiles(files, torch.tensor([wanted[row] for row in files.rows.tolist()]))


def _numbers(value: Any) -> list[int]:
    return value.array().tolist() if isinstance(value, _Array) else [int(v) for v in value]


class _Type:
    """Stands for a numpy.dtype of plain numbers."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"[<>|=]?[biuf][1248]", name):
            raise pickle.UnpicklingError(f"an array of type {shown(name)}")
        self.name, self.order = name.lstrip("<>|="), "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in "<>|=" else "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{self.name}")


class _Array:
    """Stands for a numpy.ndarray."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, kind, _, content = self.state
        return np.frombuffer(content, kind.numpy()).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Type, content: bytes) -> Any:
    return np.frombuffer(content, kind.numpy())[0].item()


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")


_INERT: list[Any] = [
    (_Array, "numpy.ndarray"),
    (_Type, "numpy.dtype"),
    (_encode, "_codecs.encode"),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    ),
]
"""What takes the place of numpy's classes and functions, by the names that a file gives them."""


def _load(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"{file} is not there; accepted: a folder with {RESULT}")
    try:
        with torch.serialization.safe_globals(_INERT):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch puts pages of advice in front of the reason.
        reason = one_line(error.__context__ or error)
        name = re.search(r"GLOBAL ([\w.]+)", reason)
        what = f"needs {name[1] if name else reason[:120]}"
        raise InputError(
            f"{file} {what}; accepted: tensors, numbers, text, numpy arrays, since anything else "
            "could run code. Where you trust it, load it with weights_only=False, keep images as "
            "PNG files and save it again"
        ) from None
    except Exception as error:  # whatever torch raises on a file that is none of its own
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{file} is damaged or no file of torch.save ({why})") from None
