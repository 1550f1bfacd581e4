"""GTSRB and Tiny ImageNet, on small trees of files in their published layouts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.datasets import decoding as decode
from sau_bench.benchmark.datasets.decoding import decoded
from sau_bench.benchmark.datasets.gtsrb import Gtsrb
from sau_bench.benchmark.datasets.tiny_imagenet import TinyImageNet
from sau_bench.benchmark.errors import InputError


def paint(file: Path, value: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> None:
    """An image of one brightness."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(file)


@pytest.fixture
def gtsrb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two training images of each class, their brightness the class; test images 3, 42, 0."""
    monkeypatch.setattr(Gtsrb, "sizes", (86, 3))
    base = tmp_path / "gtsrb"
    for label in range(43):
        for frame in (0, 1):
            file = base / "GTSRB" / "Training" / f"{label:05}" / f"00000_{frame:05}.ppm"
            paint(file, label, size=(30 + label, 40))
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row, label in enumerate((3, 42, 0)):
        paint(base / "GTSRB" / "Final_Test" / "Images" / f"{row:05}.ppm", label)
        lines.append(f"{row:05}.ppm;32;32;1;1;30;30;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of each class, its brightness the class; validation images 7 and 199."""
    monkeypatch.setattr(TinyImageNet, "test_size", 2)
    base = tmp_path / "tiny-imagenet-200"
    wnids = [f"n{number:08}" for number in range(200)]
    for number, wnid in enumerate(wnids):
        for shot in range(3):
            paint(base / "train" / wnid / "images" / f"{wnid}_{shot}.JPEG", number, (64, 64))
    (base / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")  # not sorted, as published
    lines = []
    for name, number in (("val_0.JPEG", 199), ("val_1.JPEG", 7)):
        paint(base / "val" / "images" / name, number, (64, 64), mode="L")
        lines.append(f"{name}\t{wnids[number]}\t0\t0\t62\t62")
    (base / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def levels(x: torch.Tensor) -> list[int]:
    """The brightness of images that have only one."""
    assert (x == x[:, :1, :1, :1]).all()
    return x[:, 0, 0, 0].tolist()


def test_gtsrb_reads_labels_from_folders_and_table(gtsrb: Path) -> None:
    task = Gtsrb()(gtsrb)
    assert task.train.x.shape == (86, 3, 32, 32) and task.train.x.dtype == torch.uint8
    assert task.train.y.tolist() == levels(task.train.x) == [k // 2 for k in range(86)]
    assert task.test.y.tolist() == levels(task.test.x) == [3, 42, 0]
    assert not task.train.flips and task.train.y.dtype == torch.int64


def test_gtsrb_prefers_the_folder_of_the_complete_training_set(gtsrb: Path) -> None:
    base = gtsrb / "gtsrb" / "GTSRB"
    (base / "Training").rename(base / "Final_Training")
    (base / "Final_Training" / "Images").mkdir()
    for folder in (base / "Final_Training").glob("0*"):
        folder.rename(base / "Final_Training" / "Images" / folder.name)
    paint(base / "Training" / "00000" / "00000_00000.ppm", 9)  # torchvision's smaller set
    assert len(Gtsrb()(gtsrb).train) == 86


def test_tiny_imagenet_numbers_classes_by_wordnet_id(tiny: Path) -> None:
    task = TinyImageNet(per_class=3)(tiny)
    assert task.train.x.shape == (600, 3, 64, 64)
    assert task.train.y.tolist() == [k // 3 for k in range(600)]
    assert np.abs(np.subtract(task.train.x[:, 0, 5, 5].tolist(), task.train.y.tolist())).max() <= 1
    assert task.test.y.tolist() == [199, 7]


def test_a_part_of_tiny_imagenet_is_named_as_one(tiny: Path) -> None:
    part = TinyImageNet(per_class=2)
    assert len(part(tiny).train) == 400
    assert part.label == "Tiny ImageNet (2 per class)"
    assert TinyImageNet().label == "Tiny ImageNet"


@pytest.mark.parametrize(
    ("dataset", "gone", "told"),
    [
        (Gtsrb(), "gtsrb/GTSRB/Training/00007/00000_00001.ppm", "85 of 86 images"),
        (Gtsrb(), "gtsrb/GT-final_test.csv", "No such file"),
        (Gtsrb(), "gtsrb/GTSRB/Final_Test/Images/00002.ppm", "No such file"),
    ],
)
def test_incomplete_gtsrb_is_refused(gtsrb: Path, dataset: Dataset, gone: str, told: str) -> None:
    (gtsrb / gone).unlink()
    with pytest.raises(InputError, match=told) as error:
        dataset(gtsrb)
    assert "sau-bench fetch gtsrb --data" in str(error.value)


@pytest.mark.parametrize(
    ("per_class", "gone", "told"),
    [
        (3, "train/n00000005/images/n00000005_1.JPEG", "2 of 3 images in n00000005"),
        (4, None, "3 of 4 images in n00000000"),
        (3, "val/images/val_1.JPEG", "No such file"),
        (3, "wnids.txt", "No such file"),
    ],
)
def test_incomplete_tiny_imagenet_is_refused(
    tiny: Path, per_class: int, gone: str | None, told: str
) -> None:
    if gone:
        (tiny / "tiny-imagenet-200" / gone).unlink()
    with pytest.raises(InputError, match=told) as error:
        TinyImageNet(per_class=per_class)(tiny)
    assert "sau-bench fetch tiny_imagenet --data" in str(error.value)


def test_an_image_is_resized_as_pil_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 21, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    (x,) = decoded([tmp_path / "a.ppm"], 32, tmp_path)
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    assert x.permute(1, 2, 0).tolist() == np.asarray(expected).tolist()


def test_images_are_decoded_once_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{name}.ppm" for name in "ab"]
    for file in files:
        paint(file, 10)
    first = decoded(files, 32, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_read", None)
        assert torch.equal(decoded(files, 32, tmp_path), first)
    paint(files[1], 20, (33, 33))
    assert levels(decoded(files, 32, tmp_path)) == [10, 20]
    assert levels(decoded(files[::-1], 32, tmp_path)) == [20, 10]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def become_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(file: Path) -> None:
    other = next(f for f in file.parent.iterdir() if f != file)
    file.unlink()
    file.symlink_to(other)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "cut to pixels": lambda f: f.write_bytes(f.read_bytes()[:-32]),
    "empty": lambda f: f.write_bytes(b""),
    "zeroed": lambda f: f.write_bytes(bytes(f.stat().st_size)),
    "flipped pixel": flip,
    "flipped checksum": lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"),
    "grown": lambda f: f.write_bytes(f.read_bytes() + b"x"),
    "text": lambda f: f.write_text("not images"),
    "of other files": lambda f: f.write_bytes(
        next(o for o in f.parent.iterdir() if o != f).read_bytes()
    ),
    "linked elsewhere": link,
    "missing": Path.unlink,
    "dangling": lambda f: (f.unlink(), f.symlink_to("nowhere")),
    "a folder": become_a_folder,
    "a pipe": become_a_pipe,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_or_foreign_decoded_images_are_decoded_anew(tmp_path: Path, damage: str) -> None:
    one, other = tmp_path / "one.ppm", tmp_path / "other.ppm"
    paint(one, 10)
    paint(other, 20)
    decoded([one], 32, tmp_path)
    (saved,) = (tmp_path / "decoded").iterdir()
    decoded([other], 32, tmp_path)
    DAMAGE[damage](saved)
    assert levels(decoded([one], 32, tmp_path)) == [10]
    assert levels(decoded([one], 32, tmp_path)) == [10]
    assert levels(decoded([other], 32, tmp_path)) == [20]
    left = {f.suffix for f in (tmp_path / "decoded").iterdir()}
    assert left == {".images"}


def test_a_flipped_bit_of_decoded_images_is_noticed(tmp_path: Path) -> None:
    paint(tmp_path / "a.ppm", 10)
    first = decoded([tmp_path / "a.ppm"], 4, tmp_path)
    (saved,) = (tmp_path / "decoded").iterdir()
    whole = saved.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(content)
        assert torch.equal(decoded([tmp_path / "a.ppm"], 4, tmp_path), first)
        assert saved.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path / "a.ppm", 10)
    (tmp_path / "decoded").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert levels(decoded([tmp_path / "a.ppm"], 32, tmp_path)) == [10]
    assert "cannot be saved" in caplog.text


def test_a_broken_image_is_bad_input(gtsrb: Path) -> None:
    (gtsrb / "gtsrb/GTSRB/Training/00001/00000_00000.ppm").write_bytes(b"P6 nothing")
    with pytest.raises(InputError, match="GTSRB is missing or damaged"):
        Gtsrb()(gtsrb)
