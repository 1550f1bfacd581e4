"""The clean model: trained once, what LF's pattern is made from and what ACC is compared with."""

from pathlib import Path

import pytest
import torch

from sau_bench.attacks.asset import CleanModel
from sau_bench.attacks.lf import UniversalPattern
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.report.write import report

CPU = torch.device("cpu")
CONFIG = {
    "datasets": ["digits"],
    "models": ["small_cnn:8"],
    "recipe": {"epochs": 1},
}


def config(**more: object) -> Config:
    lf = {"lf": {"images": 2, "passes": 1}}
    return Config(**CONFIG, **{"attacks": [lf], "clean_model": True, **more})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    for job in make_grid(config()).jobs():
        run_job(job, store, Path(), CPU)
    return store


def test_one_clean_model_is_trained_first_for_all_that_need_it() -> None:
    patterns = [{"lf": {"passes": n}} for n in (1, 2)]
    jobs = make_grid(config(attacks=["badnets", *patterns])).jobs()
    order = [type(j.asset if isinstance(j, AssetJob) else j) for j in jobs]
    assert order[:4] == [AttackJob, CleanModel, UniversalPattern, AttackJob]
    assert order[4:] == [UniversalPattern, AttackJob]


def test_a_recipe_of_its_own_needs_a_clean_model_of_its_own() -> None:
    own = {"lf": {"recipe": {"epochs": 2}}}
    for reference, count in ((True, 2), (False, 1)):
        jobs = make_grid(config(attacks=[own], clean_model=reference)).jobs()
        clean = [j for j in jobs if isinstance(j, AssetJob) and isinstance(j.asset, CleanModel)]
        assert len({job.key for job in clean}) == len(clean) == count


def test_only_a_part_of_attacks_or_defenses_leaves_the_reference_out() -> None:
    both = config(attacks=["badnets", "blended"])
    assert len(make_grid(both).jobs()) == 3
    assert len(make_grid(both, ["attack=badnets"]).jobs()) == 1
    assert len(make_grid(both, ["model=small_cnn"]).jobs()) == 3


def test_the_pattern_is_made_from_the_weights_of_the_clean_model(finished: Store) -> None:
    clean, pattern, _ = make_grid(config()).jobs()
    assert isinstance(clean, AssetJob) and isinstance(pattern, AssetJob)
    task = pattern.dataset(Path())
    torch.manual_seed(0)
    model = pattern.architecture(pattern.dataset)
    model.load_state_dict(finished.tensors(clean.key))
    torch.manual_seed(0)
    made = pattern.asset(model, task.train, pattern.recipe)["pattern"]
    assert torch.allclose(made, finished.tensors(pattern.key)["pattern"], atol=1e-6)


def test_its_accuracy_is_a_row_and_a_note_under_the_table(finished: Store, tmp_path: Path) -> None:
    rows = make_grid(config()).rows(finished)
    (reference,) = rows[rows["kind"] == "clean"].to_dict("records")
    assert reference["model"] == "Small CNN (width 8)" and reference["status"] == "ok"
    assert 0 < reference["acc"] <= 1 and reference["n_clean"] > 100
    rows.to_csv(tmp_path / "rows.csv", index=False)
    report(tmp_path, {})
    note = f"A model trained on clean data by the same recipe: {100 * reference['acc']:.2f}."
    assert note in (tmp_path / "tables" / "acc.md").read_text()
    assert "clean data by" not in (tmp_path / "tables" / "asr.md").read_text()
