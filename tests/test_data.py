"""Storage as 8 bits, the two draws, augmentation, and the embedded and the downloaded dataset."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from sklearn.datasets import load_digits

from sau_bench.benchmark.data import Images, augment, draw_clean, draw_poisoned, to_uint8
from sau_bench.benchmark.datasets.cifar10 import Cifar10
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError

PAD, SIDE = 4, 32
OUTCOMES = (2 * PAD + 1) ** 2


def coordinates(height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """uint8 (3, H, W): row + 1, column + 1 and 255 in the channels, so that only padding is 0."""
    rows = torch.arange(1, height + 1).view(-1, 1).expand(height, width)
    columns = torch.arange(1, width + 1).expand(height, width)
    return torch.stack((rows, columns, torch.full_like(rows, 255))).to(torch.uint8)


def every_crop(image: torch.Tensor) -> dict[bytes, int]:
    """Number of each possible output by its bytes: plain crops 0..80, mirrored ones 81..161."""
    height, width = image.shape[-2:]
    padded = np.zeros((len(image), height + 2 * PAD, width + 2 * PAD), np.uint8)
    padded[:, PAD : PAD + height, PAD : PAD + width] = image.numpy()
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * PAD + 1)
        for left in range(2 * PAD + 1)
    ]
    both = [*crops, *(crop[:, :, ::-1] for crop in crops)]
    return {crop.tobytes(): number for number, crop in enumerate(both)}


def outcomes(images: torch.Tensor, possible: dict[bytes, int]) -> np.ndarray:
    """How often each possible output occurs; a KeyError for an output that is not one of them."""
    numbers = [possible[image.numpy().tobytes()] for image in images]
    return np.bincount(numbers, minlength=len(possible))


def test_every_8_bit_value_survives_storage():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(values.float() / 255), values)


def test_storage_truncates_and_stays_in_range():
    x = torch.tensor([-0.5, 0.9 / 255, 7.9 / 255, 254.9 / 255, 1.0, 1.5])
    assert to_uint8(x).tolist() == [0, 0, 7, 254, 255, 255]
    assert to_uint8(x).dtype == torch.uint8


def test_blending_truncates_like_integers_for_all_pixels():
    x = torch.arange(256).view(-1, 1)
    picture = torch.arange(256).view(1, -1)
    blended = x.float() / 255 * (1 - 0.2) + picture.float() / 255 * 0.2
    assert torch.equal(to_uint8(blended).long(), (4 * x + picture) // 5)


def test_poisoned_rows_are_those_of_the_field():
    drawn = draw_poisoned(torch.arange(50000) % 10, 5000, seed=0)
    assert drawn[:3].tolist() == [11841, 19602, 45519]
    assert drawn.dtype == torch.int64
    assert len(drawn) == len(drawn.unique()) == 5000
    # Target-class rows are not left out: about a tenth of a balanced set.
    assert int((drawn % 10 == 0).sum()) == 496
    assert draw_poisoned(torch.zeros(39209), 3921, 0)[:3].tolist() == [19138, 21703, 32087]
    assert draw_poisoned(torch.zeros(100000), 10000, 0)[:3].tolist() == [3582, 60498, 53227]


def test_poisoned_rows_depend_on_the_seed_alone():
    labels = torch.arange(1000) % 10
    first = draw_poisoned(labels, 100, seed=1)
    np.random.seed(5)
    assert torch.equal(first, draw_poisoned(labels, 100, seed=1))
    assert not torch.equal(first, draw_poisoned(labels, 100, seed=2))


def test_clean_label_draw_keeps_to_its_class_and_is_capped_by_it():
    labels = torch.arange(1000) % 10
    some = draw_poisoned(labels, 40, seed=0, only=3)
    assert len(some.unique()) == 40
    assert set(labels[some].tolist()) == {3}
    every = draw_poisoned(labels, 500, seed=0, only=3)
    assert sorted(every.tolist()) == list(range(3, 1000, 10))


@settings(deadline=None, derandomize=True, database=None)
@given(
    size=st.integers(1, 3000),
    ratio=st.floats(0.001, 1.0),
    seed=st.integers(0, 2**31),
)
def test_clean_draw_has_its_size_and_no_duplicates(size, ratio, seed):
    drawn = draw_clean(size, ratio, seed)
    assert len(drawn) == int(ratio * size)
    assert len(set(drawn.tolist())) == len(drawn)
    assert all(0 <= row < size for row in drawn.tolist())
    assert torch.equal(drawn, draw_clean(size, ratio, seed))


@pytest.mark.parametrize(("size", "count"), [(50000, 2500), (39209, 1960), (100000, 5000)])
def test_clean_draw_is_that_of_the_field(size, count):
    drawn = draw_clean(size, 0.05, seed=0)
    random.seed(0)
    assert drawn.tolist() == random.sample(range(size), count)
    assert not torch.equal(drawn, draw_clean(size, 0.05, seed=1))


def test_augmentation_is_uniform_over_offsets_and_flips():
    torch.manual_seed(0)
    image = coordinates()
    batch = image.expand(162 * 40, -1, -1, -1)
    counts = outcomes(augment(batch, pad=PAD, flips=True), every_crop(image))
    assert len(counts) == 2 * OUTCOMES
    assert counts.sum() == len(batch)
    assert chisquare(counts).pvalue > 1e-3
    assert chisquare([counts[:OUTCOMES].sum(), counts[OUTCOMES:].sum()]).pvalue > 1e-3


def test_augmentation_has_the_distribution_of_torchvision():
    torch.manual_seed(0)
    image = coordinates()
    possible = every_crop(image)
    theirs = T.Compose([T.RandomCrop(SIDE, padding=PAD), T.RandomHorizontalFlip()])
    reference = outcomes(torch.stack([theirs(image) for _ in range(162 * 25)]), possible)
    batch = image.expand(162 * 25, -1, -1, -1)
    ours = outcomes(augment(batch, pad=PAD, flips=True), possible)
    assert chi2_contingency(np.stack((ours, reference))).pvalue > 1e-3


def test_without_flips_nothing_is_mirrored():
    torch.manual_seed(0)
    image = coordinates()
    batch = image.expand(81 * 20, -1, -1, -1)
    counts = outcomes(augment(batch, pad=PAD, flips=False), every_crop(image))
    assert counts[OUTCOMES:].sum() == 0
    assert chisquare(counts[:OUTCOMES]).pvalue > 1e-3


def test_augmentation_moves_each_image_of_its_own_at_any_shape():
    torch.manual_seed(0)
    images = torch.randint(1, 256, (64, 2, 5, 9), dtype=torch.uint8)
    for image, out in zip(images, augment(images, pad=PAD, flips=True), strict=True):
        assert out.numpy().tobytes() in every_crop(image)


def test_augmentation_treats_floats_as_bytes_and_leaves_its_input():
    images = torch.randint(0, 256, (16, 3, SIDE, SIDE), dtype=torch.uint8)
    kept = images.clone()
    torch.manual_seed(0)
    whole = augment(images, pad=PAD, flips=True)
    torch.manual_seed(0)
    floats = augment(images.float(), pad=PAD, flips=True)
    assert whole.dtype == torch.uint8 and floats.dtype == torch.float32
    assert torch.equal(whole.float(), floats)
    assert torch.equal(images, kept)
    for out in (whole, floats):
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_images_are_indexed_together_and_become_floats():
    x = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    images = Images(x, torch.arange(5), flips=True)
    rows = torch.tensor([4, 1])
    part = images[rows]
    assert torch.equal(part.x, x[rows]) and part.y.tolist() == [4, 1] and part.flips
    assert len(images) == 5 and len(part) == 2
    floats = images.floats(rows)
    assert torch.equal(floats, x[rows].float() / 255)
    assert torch.equal(images.floats(), x.float() / 255)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images.to("cpu").x, x) and images.to("cpu").flips


def test_digits_are_the_bundled_images_split_once():
    task, bunch = Digits()(Path("nowhere")), load_digits()
    assert task.train.x.shape == (1437, 3, 32, 32) and task.test.x.shape == (360, 3, 32, 32)
    assert torch.equal(task.test.y, torch.from_numpy(bunch.target[::5]))
    rest = np.delete(bunch.target, np.arange(0, 1797, 5))
    assert torch.equal(task.train.y, torch.from_numpy(rest))
    for split in (task.train, task.test):
        assert split.x.dtype == torch.uint8 and split.y.dtype == torch.int64
        assert int(split.x.min()) == 0 and int(split.x.max()) == 255
        assert torch.equal(split.x[:, 0], split.x[:, 2])
    train, test = ({image.numpy().tobytes() for image in s.x} for s in (task.train, task.test))
    assert not train & test
    # Averaging the inner pixels of each 4 x 4 patch gives the 8 x 8 original back, smoothed.
    small = torch.nn.functional.avg_pool2d(task.test.x[:, :1].float(), 4)[:, 0] / 255 * 16
    original = torch.from_numpy(bunch.images[::5]).float()
    assert torch.corrcoef(torch.stack((small.flatten(), original.flatten())))[0, 1] > 0.95


@pytest.fixture
def batches(tmp_path):
    """A folder in the format of CIFAR-10 with two images in each file; (root, pixels, labels)."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    numbers = np.random.RandomState(0)
    data = numbers.randint(0, 256, (12, 3072), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, name in enumerate(names):
        content = {"data": data[2 * i : 2 * i + 2], "labels": [i, 9 - i]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return tmp_path, data


def test_cifar10_is_read_from_torchvisions_files(batches, monkeypatch):
    root, data = batches
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    task = Cifar10()(root)
    pixels = torch.from_numpy(data).view(12, 3, 32, 32)
    assert torch.equal(task.train.x, pixels[:10]) and torch.equal(task.test.x, pixels[10:])
    assert task.train.y.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert task.test.y.tolist() == [5, 4]
    assert task.train.y.dtype == torch.int64
    assert task.train.flips and task.test.flips


def test_missing_cifar10_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError) as told:
        Cifar10()(tmp_path / "data")
    assert f"sau-bench fetch cifar10 --data {tmp_path / 'data'}" in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "data").exists()


def test_damaged_cifar10_names_the_command_that_makes_it(batches):
    with pytest.raises(InputError, match=r"damaged.*sau-bench fetch cifar10 --data"):
        Cifar10()(batches[0])


def test_embedded_data_has_nothing_to_fetch(tmp_path):
    with pytest.raises(InputError, match="embedded"):
        Digits().fetch(tmp_path)
