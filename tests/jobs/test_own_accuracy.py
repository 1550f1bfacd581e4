"""The accuracy on the defender's clean images, before and after the defense."""

from pathlib import Path

import pytest
import torch

from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.data import draw_clean
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.networks import load_victim
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.base import Defense
from sau_bench.defenses.ep import EP
from sau_bench.defenses.ft import FT
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
VICTIM = AttackJob(
    dataset=Digits(),
    architecture=SmallCNN(width=4),
    attack=BadNets(),
    recipe=Recipe(epochs=4, batch_size=64, lr=0.05),
    seed=0,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


def rows(defense: Defense, store: Store) -> list[dict[str, object]]:
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.2, score_every=1)
    run_job(job, store, Path(), CPU)
    return store.rows(job.key)


@pytest.mark.parametrize(
    "defense",
    [
        ANP(iterations=2, batch_size=16, thresholds=(0.9, 0.995, 1.0)),
        FT(recipe=Recipe(epochs=2, batch_size=64)),
    ],
    ids=lambda defense: defense.name,
)
def test_rows_carry_the_accuracy_before_the_defense(defense: Defense, store: Store) -> None:
    model, _ = load_victim(VICTIM, store, CPU)
    train = Digits()(Path()).train
    known = train[draw_clean(len(train), 0.2, 0)]
    with torch.no_grad():
        before = float((model.eval()(known.floats()).argmax(1) == known.y).double().mean())
    scored = rows(defense, store)
    assert len(scored) > 1 and 0.1 < before < 1
    assert [row["own_acc_before"] for row in scored] == pytest.approx([before] * len(scored))
    assert any(row["own_acc"] != row["own_acc_before"] for row in scored)


def test_a_defense_without_clean_images_has_no_accuracy_on_them(store: Store) -> None:
    (row,) = rows(EP(samples=64), store)
    assert "own_acc" not in row and "own_acc_before" not in row
