"""A training that was interrupted is resumed, and ends in the same bits as one that was not."""

import hashlib
import io
import logging
import math
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sau_bench.attacks.base import Attack, Trigger, make_asset
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.input_aware import InputAware
from sau_bench.attacks.lf import LF
from sau_bench.attacks.ssba import SSBA
from sau_bench.attacks.wanet import WaNet
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.checkpoint import checkpoints, enter
from sau_bench.benchmark.cost import Clock
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs import victims
from sau_bench.benchmark.jobs.job import AttackJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.train import Batch, Recipe, cross_entropy, train_model
from sau_bench.models.classifier import Classifier
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
DIGITS = Digits()
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05, schedule="plateau")


class Killed(Exception):
    """Raised where a process would die."""


@pytest.fixture(scope="module")
def digits() -> Images:
    return DIGITS(Path()).train[torch.arange(64)]


def start() -> Classifier:
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(0)
    return SmallCNN(width=4)(DIGITS)


def weights(model: Classifier) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def resumed(run: Callable[[Classifier], Any], file: Path, done: int) -> Any:
    """(model, result) of a run that is killed when its checkpoint of `done` epochs is saved."""
    saves: list[int] = []

    def kill() -> None:
        saves.append(1)
        if len(saves) == done:
            raise Killed

    with pytest.raises(Killed), checkpoints(file, 0, after_save=kill):
        run(start())
    assert file.exists()
    again = start()
    with checkpoints(file, 0):
        result = run(again)
    assert not file.exists()
    return again, result


ATTACKS = [
    (Blended(), 1),
    (WaNet(ratio=0.2), 1),
    (InputAware(mask_epochs=1, ratio=0.3), 1),
    (InputAware(mask_epochs=1, as_published=False, ratio=0.3), 1),
    (InputAware(mask_epochs=1, as_published=False, ratio=0.3), 2),
    (LF(images=2, passes=1), 2),
    (LF(images=2, passes=1), 4),
    (SSBA(encoder_epochs=2, encoder_batch_size=32, hold=1, ramp=2), 1),
    (SSBA(encoder_epochs=2, encoder_batch_size=32, hold=1, ramp=2), 3),
]


@pytest.mark.parametrize(("attack", "done"), ATTACKS, ids=lambda v: getattr(v, "name", v))
def test_an_attack_is_resumed_from_its_checkpoint(
    attack: Attack, done: int, digits: Images, tmp_path: Path
) -> None:
    def run(model: Classifier) -> Trigger:
        asset = make_asset(attack, model, digits, RECIPE)
        return attack(model, digits, torch.arange(30), RECIPE, asset)

    whole = start()
    trigger = run(whole)
    model, again = resumed(run, tmp_path / "job.pt", done)
    assert torch.equal(weights(model), weights(whole))
    x = digits.floats(slice(8))
    with torch.no_grad():
        assert torch.equal(trigger(x), again(x))


def test_only_the_missing_epochs_are_run_again(digits: Images, tmp_path: Path) -> None:
    seen: list[int] = []

    def run(model: Classifier) -> None:
        def loss(model: Classifier, batch: Batch) -> Tensor:
            seen.append(len(batch.x))
            return cross_entropy(model, batch)

        train_model(model, digits, RECIPE, loss=loss)
        train_model(model, digits, RECIPE, loss=loss)

    done, steps = RECIPE.epochs + 1, 2
    resumed(run, tmp_path / "job.pt", done)
    assert len(seen) == steps * done + steps * (2 * RECIPE.epochs - done)


def test_a_checkpoint_is_taken_when_it_is_time_to(digits: Images, tmp_path: Path) -> None:
    file, saves = tmp_path / "job.pt", []
    with checkpoints(file, every=3600, after_save=lambda: saves.append(1)):
        train_model(start(), digits, RECIPE)
        assert not file.exists() and not saves
    with checkpoints(file, every=0, after_save=lambda: saves.append(1)):
        train_model(start(), digits, RECIPE)
        assert file.exists() and len(list(tmp_path.iterdir())) == 1
        assert len(saves) == RECIPE.epochs
    assert not file.exists()
    train_model(start(), digits, RECIPE)
    assert not list(tmp_path.iterdir())


KEY = "a" * 24


def interrupted(file: Path, data: Images, key: str = KEY) -> bytes:
    """The checkpoint, after its first epoch, of a training that was interrupted."""

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed), checkpoints(file, 0, after_save=kill, key=key):
        train_model(start(), data, RECIPE)
    return file.read_bytes()


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def edited(whole: bytes, **changes: object) -> bytes:
    """A checkpoint with other contents under a sound checksum."""
    stream = io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole[:-32]), weights_only=True) | changes, stream)
    return sealed(stream.getvalue())


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"not a checkpoint",
    "cut": lambda whole: whole[:-1],
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "grown": lambda whole: whole + b"x",
    "zeroed": lambda whole: bytes(len(whole)),
    "sealed text": lambda whole: sealed(b"not a checkpoint"),
    "sealed list": lambda whole: sealed(pickle.dumps([1, 2])),
    "another job": lambda whole: edited(whole, key="b" * 24),
    "another torch": lambda whole: edited(whole, torch="1.0"),
    "no epoch": lambda whole: edited(whole, epochs=0),
    "epoch 99": lambda whole: edited(whole, epochs=99),
    "epoch as text": lambda whole: edited(whole, epochs="1"),
    "no state": lambda whole: edited(whole, state={}),
    "other layers": lambda whole: edited(whole, state={"values": [{}] * 4}),
    "too few values": lambda whole: edited(whole, state={"values": []}),
    "other trainings": lambda whole: edited(whole, ended=[{"values": [1]}]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_checkpoint_is_named_and_not_used(
    damage: str, digits: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, whole = tmp_path / "job.pt", start()
    train_model(whole, digits, RECIPE)
    file.write_bytes(DAMAGE[damage](interrupted(file, digits)))
    with caplog.at_level(logging.INFO):
        model = start()
        with checkpoints(file, 0, key=KEY):
            train_model(model, digits, RECIPE)
    assert torch.equal(weights(model), weights(whole))
    (told,) = [r for r in caplog.records if "is not used, the training starts anew" in r.message]
    assert str(file) in told.message and "\n" not in told.message
    assert told.levelno == logging.INFO
    assert not file.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_is_no_file_is_no_checkpoint(kind: str, digits: Images, tmp_path: Path) -> None:
    file = tmp_path / "job.pt"
    if kind == "folder":
        (file / "inside").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("nowhere")
    with checkpoints(file, 0, key=KEY):
        train_model(start(), digits, RECIPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.tried("a bit of a checkpoint is flipped", 1000)
def test_no_flipped_bit_of_a_checkpoint_is_trained_on(digits: Images, tmp_path: Path) -> None:
    file = tmp_path / "job.pt"
    whole = interrupted(file, digits)
    dice = random.Random(0)
    for flips in range(1001):
        content = bytearray(whole)
        if flips:  # the first time it is sound, and used
            bit = dice.randrange(8 * len(whole))
            content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with checkpoints(file, math.inf, key=KEY):
            fresh = start()
            others: list[Any] = [RECIPE.make_optimizer(list(fresh.parameters()))]
            others.append(RECIPE.make_schedule(others[0]))
            stage = enter([fresh, *others], RECIPE.epochs)
            assert stage.epochs == (0 if flips else 1)


def test_a_killed_job_goes_on_and_publishes_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = AttackJob(
        dataset=DIGITS,
        architecture=SmallCNN(width=4),
        attack=Blended(),
        recipe=Recipe(epochs=3, lr=0.05),
        seed=1,
    )
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "cache")
    run_job(job, whole, Path(), CPU)
    monkeypatch.setattr(victims, "CHECKPOINT_EVERY", 0.0)
    begun = Clock.state_dict
    saves: list[dict[str, float]] = []

    def save_once(clock: Clock) -> dict[str, float]:
        if saves:
            raise Killed
        saves.append(begun(clock))
        return saves[0]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Clock, "state_dict", save_once)
        run_job(job, store, Path(), CPU)
    assert job.key not in store and store.checkpoint(job.key).exists()
    run_job(job, store, Path(), CPU)
    assert not store.checkpoint(job.key).exists()
    expected, found = whole.tensors(job.key), store.tensors(job.key)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert store.rows(job.key)[0]["seconds"] >= saves[0]["seconds"] > 0


TRAIN = """
import sys
import time
from functools import partial
from pathlib import Path
import torch
from sau_bench.attacks.blended import Blended
from sau_bench.benchmark.jobs import run_job, victims
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs.job import AttackJob
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.train import Recipe
from sau_bench.models.small_cnn import SmallCNN

torch.set_num_threads(1)
victims.CHECKPOINT_EVERY = 0.0
# Slow enough to be killed before its end on a busy machine.
victims.checkpoints = partial(victims.checkpoints, after_save=lambda: time.sleep(0.3))
job = AttackJob(
    dataset=Digits(),
    architecture=SmallCNN(width=4),
    attack=Blended(),
    recipe=Recipe(epochs=int(sys.argv[2]), lr=0.05),
    seed=1,
)
run_job.run_job(job, Store(Path(sys.argv[1])), Path(), torch.device("cpu"))
"""


@pytest.mark.tried("a training is killed and goes on from its checkpoint", 1)
@pytest.mark.slow
def test_a_process_that_is_killed_loses_at_most_one_epoch(tmp_path: Path) -> None:
    epochs = 12
    job = AttackJob(
        dataset=DIGITS,
        architecture=SmallCNN(width=4),
        attack=Blended(),
        recipe=Recipe(epochs=epochs, lr=0.05),
        seed=1,
    )
    store, whole = Store(tmp_path / "cache"), Store(tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(store.root), str(epochs)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    while not store.checkpoint(job.key).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert job.key not in store
    for place in (whole, store):
        run_job(job, place, Path(), CPU)
    expected, found = whole.tensors(job.key), store.tensors(job.key)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    log = (store.root / job.key / "log.jsonl").read_text()
    assert "resumed after epoch" in log and '"epoch": 1,' not in log
