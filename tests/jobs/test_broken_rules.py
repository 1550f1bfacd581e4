"""A grid says of a broken rule what the contract says, and no such job gets a score."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from job_cases import CPU, VICTIM

from sau_bench.attacks.base import stamped
from sau_bench.benchmark import contract
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.check import BROKEN, verdict
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build, load
from sau_bench.benchmark.rules import (
    GLOBAL_STATE,
    SEED,
    SILENT,
    SLACK,
    UNTOUCHED,
    BrokenRule,
    told_of,
)

HEAD = """
import logging, sys, warnings
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
    "an attack takes model, train, rows, recipe, asset": (
        "    def __call__(self, model, train, rows, recipe):\n        return self.trigger\n"
    ),
    "a poisoned training set has all images": (
        "    def poisoned_set(self, train, rows, trigger, num_classes, batch_size):\n"
        "        return train[rows]\n"
    ),
}
DEFENSES = {
    "yield 0.5": "rounds are models",
    "yield model.state_dict()": "rounds are models",
    "yield 0.5, model": "rounds are models",
    "return model": "a defense yields its models",
    "pass": "a defense yields its models",
    "yield from ()": "a defense yields at least one model",
}

NET = """
from dataclasses import dataclass
from torch import nn
from sau_bench.models.classifier import Architecture, Classifier

class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))

@dataclass(frozen=True, kw_only=True)
class Bad(Architecture):
    '''A model.'''
    name = "Bad"
    def __call__(self, dataset):
        return {}
"""
OF_NINE = "Classifier(Net(9), head='2', stages=['0'], mean=dataset.mean, std=dataset.std)"
DATA = """
from dataclasses import dataclass
import torch
from sau_bench.benchmark.data import Dataset, Images, Task

def split(x, y, flips=False):
    return Task(Images(x, y, flips), Images(x, y, flips))

@dataclass(frozen=True, kw_only=True)
class Bad(Dataset):
    '''A dataset.'''
    name = "Bad"
    num_classes, train_size, shape = 10, 20, (3, 32, 32)
    mean, std, flips = (0.0,) * 3, (1.0,) * 3, False
    def __call__(self, root):
        x, y = torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10
        return {}
"""


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


@pytest.mark.parametrize(
    ("kind", "source", "rule"),
    [
        ("models", NET.format("Net()"), "a model is a Classifier"),
        ("models", NET.format(OF_NINE), "a model gives one logit for each class"),
        ("datasets", DATA.format("x, y"), "a dataset returns its two splits"),
        ("datasets", DATA.format("split(x.float(), y)"), "images are uint8 tensors of the"),
        ("datasets", DATA.format("split(x[:, :1], y)"), "images are uint8 tensors of the"),
        ("datasets", DATA.format("split(x, y.int())"), "labels are int64 and every class occurs"),
        ("datasets", DATA.format("split(x, y * 0)"), "labels are int64 and every class occurs"),
        ("datasets", DATA.format("split(x, y, True)"), "splits say whether they may be flipped"),
    ],
)
def test_a_bad_network_or_dataset_fails_its_jobs_with_the_words_of_the_contract(
    kind, source, rule, tmp_path
):
    file = tmp_path / "bad.py"
    file.write_text(source)
    role = {"models": "architecture", "datasets": "dataset"}[kind]
    job = replace(VICTIM, **{role: build(kind, str(file))})
    grid, alone = both(kind, str(file), job, Store(tmp_path / "cache"))
    assert grid == alone and grid.startswith(rule)


@pytest.mark.parametrize(
    ("body", "uses", "rule", "told"),
    [
        ("print('one', 2)", "clean", SILENT, "it printed 'one'; use `logging` or"),
        ("sys.stderr.write('one')", "clean", SILENT, "it printed 'one'; use `logging` or"),
        ("torch.manual_seed(7)", "clean", SEED, "it has called torch.manual_seed"),
        ("torch.set_num_threads(7)", "clean", GLOBAL_STATE, "torch's number of threads"),
        ("data.x.zero_()", "clean", UNTOUCHED, "it changed `data.x` or `data.y`"),
        ("data.y.add_(1)", "train", UNTOUCHED, "it changed `data.x` or `data.y`"),
    ],
)
def test_bad_manners_of_a_defense_are_named_in_its_row_with_the_words_of_the_contract(
    body, uses, rule, told, tmp_path, store, capsys
):
    source = f'    """Bad."""\n    uses = "{uses}"\n    def __call__(self, model, data):\n'
    source += f"        {body}\n        yield model\n"
    file = write(tmp_path, "Defense", source)
    defense = build("defenses", file)
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.05, score_every=1)
    run_job(job, store, Path(), CPU)
    warning = store.rows(job.key)[0]["warning"]
    assert warning.startswith(f"{rule}: ") and told in warning
    with pytest.raises(BrokenRule) as broken:
        contract.check("defenses", load("defenses", file))
    assert broken.value.rule == rule


def test_what_a_plugin_prints_appears_and_is_named_once_with_its_line(tmp_path, store, capsys):
    body = (
        '    """Bad."""\n'
        "    def __call__(self, model, data):\n"
        "        warnings.warn('no print')\n"
        "        logging.getLogger('mine').warning('no print either')\n"
        "        for round in range(2):\n"
        "            print('round', round)\n"
        "            yield model\n"
    )
    file = write(tmp_path, "Defense", body)
    line = Path(file).read_text().splitlines().index("            print('round', round)") + 1
    defense = build("defenses", file)
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.05, score_every=1)
    with pytest.warns(UserWarning, match="no print"):
        run_job(job, store, Path(), CPU)
    warned = [row["warning"] for row in store.rows(job.key)]
    said = f"{SILENT}: {told_of('round')}, in line {line} of bad.py"
    assert warned == [f"no print either; {said}"] * 2
    assert capsys.readouterr().out == "round 0\nround 1\n"


def test_a_class_without_dataclass_is_refused_by_a_grid_and_by_check_in_the_same_words(tmp_path):
    source = HEAD.replace("@dataclass(frozen=True, kw_only=True)\n", "").format(base="Defense")
    file = tmp_path / "bad.py"
    file.write_text(source + "    def __call__(self, model, data):\n        yield model\n")
    with pytest.raises(InputError) as refused:
        build("defenses", str(file))
    told = str(refused.value).removeprefix(f"{file}: ")
    assert "is not a frozen dataclass; accepted: @dataclass(frozen=True, kw_only=True)" in told
    status, (line,) = verdict(str(file), None)
    assert status == BROKEN and line.endswith(told)


def test_a_config_that_sets_a_value_without_annotation_is_told_to_annotate_it(tmp_path):
    source = "    lr = 0.1\n    def __call__(self, model, data):\n        yield model\n"
    file = write(tmp_path, "Defense", source)
    with pytest.raises(InputError, match=r"Bad.lr is no field.*; write `lr: float = 0.1`"):
        build("defenses", {file: {"lr": 0.2}})
