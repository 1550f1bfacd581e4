"""MNIST and CIFAR-100, on small files in the layouts that torchvision expects."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from sau_bench.benchmark.datasets import mnist as module
from sau_bench.benchmark.datasets.cifar100 import Cifar100
from sau_bench.benchmark.datasets.mnist import Mnist
from sau_bench.benchmark.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 28, 28), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], np.uint8)


def idx(values: np.ndarray) -> bytes:
    """The format of the published files: 0, 0, type 8, dimensions, sizes, bytes."""
    sizes = np.array(values.shape, ">u4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six training and three test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    sums = {}
    for name, rows in (("train", slice(6)), ("t10k", slice(6, 9))):
        for what, values in (("images-idx3", PIXELS[rows]), ("labels-idx1", LABELS[rows])):
            content = idx(values)
            (raw / f"{name}-{what}-ubyte").write_bytes(content)
            sums[f"{name}-{what}-ubyte"] = hashlib.md5(content).hexdigest()
    assert sums.keys() == Mnist.md5.keys()
    monkeypatch.setattr(Mnist, "md5", sums)
    return tmp_path


def test_mnist_is_grey_and_in_order(digits: Path) -> None:
    task = Mnist()(digits)
    assert task.train.x.shape == (6, 1, 28, 28) and task.train.x.dtype == torch.uint8
    assert np.array_equal(task.train.x[:, 0], PIXELS[:6])
    assert np.array_equal(task.test.x[:, 0], PIXELS[6:])
    assert task.train.y.tolist() == LABELS[:6].tolist() and task.test.y.tolist() == [2, 6, 5]
    assert task.train.y.dtype == torch.int64 and not task.train.flips


@pytest.mark.parametrize("name", sorted(Mnist.md5))
def test_damaged_mnist_is_refused_and_fetched_anew(
    digits: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = digits / "MNIST" / "raw" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"MNIST is missing or damaged.*{name}") as error:
        Mnist()(digits)
    assert "sau-bench fetch mnist --data" in str(error.value)

    def download(root: Path, *, download: bool) -> None:
        missing = [n for n in Mnist.md5 if not (root / "MNIST" / "raw" / n).exists()]
        assert download and missing == [name]  # it would leave a damaged file as it is
        file.write_bytes(whole)

    monkeypatch.setattr(module, "MNIST", download)
    Mnist().fetch(digits)
    assert len(Mnist()(digits).train) == 6


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four training images and one test image, of classes 7, 99, 0, 1 and 42."""
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    flat = np.arange(5 * 3072).reshape(5, 3072).astype(np.uint8)
    for name, rows, labels in (("train", slice(4), [7, 99, 0, 1]), ("test", slice(4, 5), [42])):
        content = {"data": flat[rows], "fine_labels": labels, "coarse_labels": [19] * len(labels)}
        (base / name).write_bytes(pickle.dumps(content))
    names = {"fine_label_names": [str(k) for k in range(100)]}
    (base / "meta").write_bytes(pickle.dumps(names))
    for name, part in (("train_list", "train"), ("test_list", "test")):
        digest = hashlib.md5((base / part).read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR100, name, [[part, digest]])
    meta = CIFAR100.meta | {"md5": hashlib.md5((base / "meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(CIFAR100, "meta", meta)
    return tmp_path


def test_cifar100_has_fine_labels(cifar: Path) -> None:
    task = Cifar100()(cifar)
    assert task.train.y.tolist() == [7, 99, 0, 1] and task.test.y.tolist() == [42]
    assert task.train.x.shape == (4, 3, 32, 32) and not task.train.flips
    # Rows of an image are a red, a green and a blue plane.
    expected = torch.arange(3072, 2 * 3072).remainder(256).view(3, 32, 32)
    assert torch.equal(task.train.x[1].long(), expected)


def test_damaged_cifar100_is_refused(cifar: Path) -> None:
    (cifar / "cifar-100-python" / "test").write_bytes(b"nothing")
    with pytest.raises(InputError, match="CIFAR-100 is missing or damaged") as error:
        Cifar100()(cifar)
    assert "sau-bench fetch cifar100 --data" in str(error.value)
