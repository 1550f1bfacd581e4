"""What defenses are handed by their kind, and how models that reject images are scored."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from job_cases import CPU, VICTIM

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.contract import check
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.networks import load_defended
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build, load
from sau_bench.benchmark.rows import REJECTED_COLUMNS, fault

FIRST_LEARNED = str(Path(__file__).parents[2] / "examples" / "first_learned.py")
HEAD = """
import torch
from dataclasses import dataclass
from torch import nn
from sau_bench.benchmark.train import Recipe, fit
from sau_bench.defenses.base import Defense, with_rejection
SEEN = []

@dataclass(frozen=True, kw_only=True)
class Odd(Defense):
    name = "Odd"
    {kind}
    def __call__(self, model, data):
        {body}
"""
HALF = """class Half(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x):
        return with_rejection(self.model(x), x.mean((1, 2, 3)) > 0.3)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A cache with the victim."""
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


def odd(folder, kind, body, more=""):
    folder.mkdir(exist_ok=True)
    (folder / "odd.py").write_text(HEAD.format(kind=kind, body=body) + more)
    return str(folder / "odd.py")


def finish(spec, store, **more):
    """The job of a defense, and its rows."""
    defense = build("defenses", spec)
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.05, score_every=1, **more)
    run_job(job, store, Path(), CPU)
    return job, store.rows(job.key)


def test_a_data_free_defense_is_handed_no_image(store, tmp_path):
    body = "assert data.x.shape == (0, 3, 32, 32) and data.y.shape == (0,); yield model"
    _, (row,) = finish(odd(tmp_path, "uses = 'none'", body), store)
    victim = store.rows(VICTIM.key)[0]
    assert [row[name] for name in ("acc", "asr", "racc")] == [
        victim[name] for name in ("acc", "asr", "racc")
    ]
    assert not {"own_acc", "own_acc_before"} & row.keys() and not fault(row)


def test_training_anew_as_the_victim_was_trained_gives_the_victim(store, tmp_path):
    kind = "uses, starts = 'train', 'untrained'"
    body = f"yield from fit(model, data, {VICTIM.recipe!r})"
    _, rows = finish(odd(tmp_path, kind, body), store)
    victim = store.rows(VICTIM.key)[0]
    for name in ("acc", "asr", "racc"):
        assert rows[-1][name] == victim[name]


def test_a_fresh_model_has_not_the_weights_of_the_victim_and_can_be_kept(store, tmp_path):
    body = "yield model"
    job, (row,) = finish(odd(tmp_path, "starts = 'untrained'", body), store, keep=True)
    assert row["acc"] != store.rows(VICTIM.key)[0]["acc"]
    torch.manual_seed(VICTIM.seed)
    fresh = VICTIM.architecture(VICTIM.dataset).state_dict()
    kept = load_defended(job, store, CPU).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


def test_the_example_trains_on_the_poisoned_set(store):
    spec = {FIRST_LEARNED: {"epochs": 1, "dropped": 0.25, "recipe": {"epochs": 1}}}
    _, (row,) = finish(spec, store)
    assert "trained on 1078 of 1437 images" in row["note"]
    check("defenses", load("defenses", FIRST_LEARNED))


def test_rejected_images_are_wrong_and_no_success(store, tmp_path):
    file = odd(tmp_path, "rejects, uses = True, 'none'", "yield Half(model)", HALF)
    _, (row,) = finish(file, store)
    task = VICTIM.dataset(Path())
    tensors = store.tensors(VICTIM.key)
    model = VICTIM.architecture(VICTIM.dataset)
    model.load_state_dict({n: tensors[f"model.{n}"] for n in model.state_dict()})
    triggered = replace(task.test, x=tensors["test.x"], y=tensors["test.y"])
    expected = {}
    with torch.no_grad():
        for data, goals in (
            (task.test, {"acc": task.test.y}),
            (triggered, {"asr": tensors["test.wanted"], "racc": triggered.y}),
        ):
            x = data.floats()
            kept, classes = x.mean((1, 2, 3)) <= 0.3, model.eval()(x).argmax(1)
            for name, goal in goals.items():
                expected[name] = int((kept & (classes == goal)).sum()) / len(x)
            name = "rejected" if data is task.test else "rejected_poisoned"
            expected[name] = int((~kept).sum()) / len(x)
    assert 0.1 < expected["rejected"] < 0.9
    assert {name: row[name] for name in expected} == expected
    assert row["note"] == (
        f"rejected {100 * expected['rejected']:.1f} % of clean and "
        f"{100 * expected['rejected_poisoned']:.1f} % of triggered test images"
    )
    assert not fault(row) and row["n_clean"] == len(task.test)


def test_accuracy_on_the_own_data_counts_rejections_as_wrong(store, tmp_path):
    file = odd(tmp_path, "rejects = True", "yield Half(model)", HALF)
    _, (row,) = finish(file, store)
    assert 0 <= row["own_acc"] < row["own_acc_before"]


def test_tables_have_columns_of_rejections_where_a_defense_rejects(store, tmp_path):
    file = odd(tmp_path, "rejects = True", "yield Half(model)", HALF)
    jobs = []
    for defenses in (["ft"], [file]):
        grid = make_grid(Config(**small(defenses)))
        victim, job = grid.victims[0], grid.jobs()[-1]
        if isinstance(job.defense, build("defenses", file).__class__):
            run_job(victim, store, Path(), CPU)
            run_job(job, store, Path(), CPU)
        jobs.append(grid.rows(store, lambda key: None))
    assert not set(REJECTED_COLUMNS) & set(jobs[0].columns)
    row = jobs[1].iloc[-1]
    assert all(0 < row[name] < 1 for name in REJECTED_COLUMNS)
    assert math.isnan(jobs[1].iloc[0]["rejected"])


def small(defenses):
    return {
        "datasets": ["digits"],
        "models": ["small_cnn:4"],
        "attacks": ["badnets"],
        "recipe": {"epochs": 1, "lr": 0.05},
        "defenses": defenses,
    }


def test_a_data_free_defense_runs_once_whatever_the_clean_ratios(tmp_path):
    config = Config(**small(["ft", "clp", "strip"]), clean_ratio=[0.05, 0.2])
    grid = make_grid(config)
    labels = [grid.place(v, d)["defense"] for v, d in grid.cells() if d]
    assert labels == ["FT", "FT (clean_ratio=0.2)", "CLP", "STRIP", "STRIP (clean_ratio=0.2)"]
    rows = grid.rows(Store(tmp_path), lambda key: None).set_index("defense")
    assert pd.isna(rows.loc["CLP", "clean_ratio"]) and rows.loc["CLP", "uses"] == "none"


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("uses = 'test'", {}, "uses is 'test', accepted: clean, train, none"),
        ("starts = 'anywhere'", {}, "starts is 'anywhere', accepted: victim, untrained"),
        ("rejects = True", {"probes": ["risk"]}, "may reject images, which risk cannot measure"),
    ],
)
def test_a_grid_refuses_kinds_that_nobody_knows(tmp_path, kind, more, message):
    with pytest.raises(InputError, match=message):
        make_grid(Config(**small([odd(tmp_path, kind, "yield model")]), **more))
