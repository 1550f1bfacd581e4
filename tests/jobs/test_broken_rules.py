"""A grid says of a broken rule what the contract says, and no such job gets a score."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from job_cases import CPU, VICTIM

from sau_bench.attacks.base import stamped
from sau_bench.benchmark import contract
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build, load
from sau_bench.benchmark.rules import SEED, SLACK, BrokenRule

HEAD = """
import torch
from dataclasses import dataclass
from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.train import train_model
from sau_bench.defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Bad({base}):
    name = "Bad"
"""
TRIGGER = "    def trigger(self, x):\n        return {}\n"
ATTACKS = {
    "x + 0.5": "a trigger stays in [0, 1]",
    "x * 255": "a trigger stays in [0, 1]",
    "x / 0": "a trigger stays in [0, 1]",
    "x - 0.1": "a trigger stays in [0, 1]",
    "x[:, :1]": "a trigger keeps shape and type of its images",
    "x.double()": "a trigger keeps shape and type of its images",
    "x[:1]": "a trigger keeps shape and type of its images",
    "None": "a trigger returns images",
}
MORE = {
    "an attack returns its trigger": (
        "    def __call__(self, model, train, rows, recipe, asset):\n"
        "        train_model(model, train, recipe)\n"
    ),
    "labels are classes": "    def relabel(self, y, num_classes):\n        return y + 10\n",
}
DEFENSES = {
    "yield 0.5": "rounds are models",
    "yield model.state_dict()": "rounds are models",
    "yield 0.5, model": "rounds are models",
    "return model": "a defense yields its models",
    "pass": "a defense yields its models",
    "yield from ()": "a defense yields at least one model",
}


def write(folder, base, body):
    file = folder / "bad.py"
    file.write_text(HEAD.format(base=base) + body)
    return str(file)


def both(kind, file, job, store):
    """The text of what a grid and of what the contract says."""
    told = []
    for run in (
        lambda: run_job(job, store, Path(), CPU),
        lambda: contract.check(kind, load(kind, file)),
    ):
        with pytest.raises(BrokenRule) as broken:
            run()
        told.append(str(broken.value))
    assert job.key not in store
    return told


@pytest.mark.parametrize("body", [*ATTACKS, *MORE])
def test_a_bad_attack_fails_its_job_with_the_words_of_the_contract(body, tmp_path):
    rule = ATTACKS.get(body, body)
    source = TRIGGER.format(body) if body in ATTACKS else MORE[body] + TRIGGER.format("1 - x")
    file = write(tmp_path, "DataPoisoning", source)
    job = replace(VICTIM, attack=build("attacks", file))
    grid, alone = both("attacks", file, job, Store(tmp_path / "cache"))
    assert grid.partition(": ")[0] == alone.partition(": ")[0] == rule


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


@pytest.mark.parametrize("body", DEFENSES)
def test_a_bad_defense_fails_its_job_with_the_words_of_the_contract(body, tmp_path, store):
    source = f"    def __call__(self, model, data):\n        {body}\n"
    file = write(tmp_path, "Defense", source)
    job = DefenseJob(
        victim=VICTIM, defense=build("defenses", file), clean_ratio=0.05, score_every=1
    )
    grid, alone = both("defenses", file, job, store)
    assert grid == alone and grid.startswith(DEFENSES[body])


def test_a_trigger_that_only_fails_on_test_images_fails_its_job(tmp_path):
    """The training images of an attack that poisons batches are its own affair; scores are not."""
    source = (
        "    def __call__(self, model, train, rows, recipe, asset):\n"
        "        train_model(model, train, recipe)\n"
        "        return lambda x: x + 0.01\n"
    )
    file = write(tmp_path, "DataPoisoning", source + TRIGGER.format("x"))
    job = replace(VICTIM, attack=build("attacks", file))
    store = Store(tmp_path / "cache")
    with pytest.raises(BrokenRule, match=r"a trigger stays in \[0, 1\]: values from 0.01 to 1.01"):
        run_job(job, store, Path(), CPU)
    assert job.key not in store


def test_rounding_is_tolerated_and_nothing_that_changes_a_level():
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    for shift in (0.9 * SLACK, -0.9 * SLACK):
        assert torch.equal(stamped(lambda x, s=shift: x + s, x), x + shift)
    for shift in (1.1 * SLACK, -1.1 * SLACK, float("nan"), float("inf")):
        with pytest.raises(BrokenRule):
            stamped(lambda x, s=shift: x + s, x)
    assert SLACK * 255 < 0.01
    empty = x[:0]
    assert stamped(lambda x: x, empty) is empty


def test_a_method_that_seeds_its_run_is_named_in_its_row(tmp_path, store):
    body = (
        "    def __call__(self, model, data):\n        torch.manual_seed(7)\n        yield model\n"
    )
    file = write(tmp_path, "Defense", body)
    job = DefenseJob(
        victim=VICTIM, defense=build("defenses", file), clean_ratio=0.05, score_every=1
    )
    run_job(job, store, Path(), CPU)
    (row,) = store.rows(job.key)
    assert row["warning"] == f"{SEED}: it has called torch.manual_seed"


def test_a_config_that_sets_a_value_without_annotation_is_told_to_annotate_it(tmp_path):
    source = "    lr = 0.1\n    def __call__(self, model, data):\n        yield model\n"
    file = write(tmp_path, "Defense", source)
    with pytest.raises(InputError, match=r"Bad.lr is no field.*; write `lr: float = 0.1`"):
        build("defenses", {file: {"lr": 0.2}})
