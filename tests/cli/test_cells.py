"""Models of finished cells by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.cells import load_model
from sau_bench.benchmark.cli.find import find_cell
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.metrics import predict

RECIPE = {"epochs": 2, "batch_size": 64, "lr": 0.05}
GRID = {
    "datasets": ["digits"],
    "models": ["small_cnn:4"],
    "attacks": ["badnets", "blended"],
    "defenses": [{"ft": {"recipe": RECIPE}}, "ep"],
    "recipe": RECIPE,
    "keep": ["defended"],
}
BADNETS = "attack=badnets"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a grid of which BadNets without a defense and under FT are finished."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
    store = Store(folder / "cache")
    for job in make_grid(read(folder / "grid.yaml"), [f"{BADNETS},defense=ft"]).jobs():
        run_job(job, store, Path(), torch.device("cpu"))
    return folder / "grid.yaml"


@pytest.mark.parametrize("defense", ["ft", "FT", "No Defense"])
def test_a_model_is_loaded_by_the_names_of_its_cell(config: Path, defense: str) -> None:
    only, cache = [f"{BADNETS},defense={defense}"], config.parent / "cache"
    model = load_model(config, only, cache)
    assert not model.training
    row = Store(cache).rows(find_cell(config, only).key)[-1]
    test = Digits()(Path()).test
    assert float((predict(model, test) == test.y).double().mean()) == row["acc"]


def test_names_are_those_of_the_tables(config: Path) -> None:
    names = ["dataset=Digits", "model=Small CNN (width 4)", "attack=Blended", "seed=0"]
    jobs = [find_cell(config, [*names, f"defense={d}"]) for d in ("EP", "ep", "No Defense")]
    assert [str(job).count("/") for job in jobs] == [4, 4, 3] and jobs[0] == jobs[1]


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ([BADNETS], "'attack=badnets' selects 3 cells, accepted: one"),
        (["attack=lf"], "'attack=lf' selects 0 cells, accepted: one"),
        (["attacks=lf"], r"only: 'attacks=lf' is not AXIS=NAME"),
        ([f"{BADNETS},defense=ep"], "EP is not finished in"),
    ],
)
def test_other_names_are_refused_in_one_line(config: Path, only: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_model(config, only, config.parent / "cache")
