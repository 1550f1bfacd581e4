"""The measurement of figure 4, on digits."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from sklearn.decomposition import PCA

from sau_bench.benchmark import risk
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.run_job import run_job

SCRIPT = Path(__file__).parents[2] / "measurements" / "latent_features.py"
RECIPE = {"epochs": 8, "batch_size": 64, "lr": 0.05, "augment": False}
GRID = {
    "datasets": ["digits"],
    "models": ["small_cnn:8"],
    "attacks": ["badnets"],
    "defenses": [{"ft": {"recipe": RECIPE}}],
    "recipe": RECIPE,
    "keep": ["defended"],
}


@pytest.fixture
def main(tmp_path, monkeypatch):
    """The script on a finished cell; what it prints and writes lies in `tmp_path`."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    store = Store(tmp_path / "cache")
    for job in make_grid(read(tmp_path / "grid.yaml")).jobs():
        run_job(job, store, Path(), torch.device("cpu"))
    words = ["grid.yaml", "--cache", "cache", "--out", "out", "--images", "120"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["latent_features.py", *words, "--only", "defense=FT"])
    return lambda: runpy.run_path(str(SCRIPT), run_name="__main__")


def test_distances_are_those_of_the_groups(main, tmp_path, capsys, monkeypatch):
    seen = {}

    fit = PCA.fit_transform

    def remember(self, groups):
        seen["groups"] = groups
        return fit(self, groups)

    monkeypatch.setattr(PCA, "fit_transform", remember)
    main()
    table = pd.read_csv(tmp_path / "out" / "latent_features.csv")
    counts = table["group"].value_counts()
    assert set(counts.index) == {"clean", "poisoned", "shared", "other"}
    assert counts.nunique() == 1 and counts.iloc[0] > 1
    clean, poisoned, shared, other = torch.from_numpy(seen["groups"]).chunk(4)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    printed = {words[0]: float(words[1]) for words in lines}
    expected = {"clean": clean, "shared": shared, "other": other}
    for name, group in expected.items():
        distance = float((group - poisoned).norm(dim=1).mean())
        assert printed[name] == pytest.approx(distance, abs=6e-3)  # two decimals
    assert (tmp_path / "out" / "latent_features.png").stat().st_size > 1000


def test_examples_are_of_the_kind_that_is_asked_for(monkeypatch):
    climb = runpy.run_path(str(SCRIPT))["climb"]
    torch.manual_seed(0)
    f, f0 = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)) for _ in range(2))
    with torch.no_grad():
        for model in (f, f0):
            model[1].weight.mul_(5)
    data = Images(torch.randint(256, (80, 3, 2, 2), dtype=torch.uint8), torch.arange(80) % 3)
    x, y = data.floats(), data.y
    points, found = climb(f, f0, x, y, risk.together, lambda a, b, y: (a != y) & (a == b))
    a, b = f(points).argmax(1), f0(points).argmax(1)
    assert found.any() and bool(((a != y) & (a == b))[found].all())
    assert (points - x).abs().max() <= risk.EPS + 1e-6
    assert torch.equal(points[~found], x[~found])
