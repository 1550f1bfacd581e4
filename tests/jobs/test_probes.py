"""What a config can have measured and kept beside the scores of a defense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark import risk
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.networks import load_defended, load_victim
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.metrics import predict
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.rows import COLUMNS, PROBE_COLUMNS, fault
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.fp import FP
from sau_bench.defenses.ft import FT
from sau_bench.models.small_cnn import SmallCNN

VICTIM = AttackJob(
    dataset=Digits(), architecture=SmallCNN(width=4), attack=BadNets(),
    recipe=Recipe(epochs=2, batch_size=64, lr=0.05), seed=0,
)  # fmt: skip
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05)
DEFENSES = [
    FT(recipe=RECIPE),
    FP(recipe=RECIPE, tolerance=0.5),
    ANP(iterations=5, batch_size=32, lr=5.0, thresholds=(0.4, 1.0)),
]
CPU = torch.device("cpu")


def defended(defense: Any, **more: Any) -> DefenseJob:
    return DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.1, score_every=1, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


def rows_of(job: DefenseJob, store: Store) -> list[dict[str, Any]]:
    run_job(job, store, Path(), CPU)
    return store.rows(job.key)


def test_probes_and_weights_are_other_jobs_but_without_them_nothing_changes() -> None:
    plain = defended(FT())
    assert set(plain.canonical()) == {"job", "victim", "defense", "clean_ratio", "score_every"}
    jobs = [plain, defended(FT(), probes=("risk",)), defended(FT(), keep=True)]
    assert len({job.key for job in jobs}) == 3


def test_a_probe_adds_columns_and_changes_no_score(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(risk, "IMAGES", 40)
    plain = rows_of(defended(DEFENSES[0]), store)
    probed = rows_of(defended(DEFENSES[0], probes=("risk",)), store)
    cost = {"seconds", "peak_mib"}
    for before, after in zip(plain, probed, strict=True):
        assert not fault(after) and set(after) - set(before) == set(PROBE_COLUMNS)
        assert all(after[name] == before[name] for name in set(before) - cost)
        assert 0 <= after["shared_risk"] <= after["shared_risk_joint"] <= after["adv_risk"] <= 1
    assert len({row["risk_before"] for row in probed}) == 1
    # The first test images that the trigger would move, measured again from the weights.
    kept = defended(DEFENSES[0], probes=("risk",), keep=True)
    last = rows_of(kept, store)[-1]
    test = Digits()(Path()).test
    data = test[(test.y != 0).nonzero()[:40, 0]]
    victim, _ = load_victim(VICTIM, store, CPU)
    again = risk.risks(load_defended(kept, store, CPU), victim, data)
    assert again == {name: last[name] for name in again}
    assert last["adv_risk"] > 0


class Results:
    """Finished jobs with the rows that a test gives them."""

    def __init__(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        self.found = rows

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def rows(self, key: str) -> list[dict[str, Any]]:
        return self.found[key]


@pytest.mark.parametrize("probes", [["risk"], []])
def test_probes_reach_the_table_and_are_read_back(probes: Any, tmp_path: Path) -> None:
    config: dict[str, Any] = {"datasets": ["digits"], "models": ["small_cnn"]}
    config |= {"attacks": ["badnets"], "defenses": ["ft"]}
    grid = make_grid(Config(**config, probes=probes, keep=["defended"] if probes else []))
    (victim, _), (_, job) = grid.cells()
    assert job is not None and job.probes == tuple(probes) and job.keep is bool(probes)
    names = list(PROBE_COLUMNS) if probes else []
    scores = {"acc": 0.5, "asr": 0.5, "status": "ok"}
    rows = {victim.key: [{"kind": "victim", "step": 0, **scores}]}
    rows[job.key] = [{"kind": "rounds", "step": 1, **scores, **dict.fromkeys(names, 0.25)}]
    frame = grid.rows(Results(rows))
    assert list(frame.columns) == [*COLUMNS, *names]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    read = read_rows(tmp_path / "rows.csv")
    assert all(pd.isna(read[name][0]) and read[name][1] == 0.25 for name in names)


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: defense.name)
def test_kept_weights_score_as_their_rows_do(defense: Any, store: Store) -> None:
    job = defended(defense, keep=True)
    rows = rows_of(job, store)
    test = Digits()(Path()).test
    rounds = defense.yields == "rounds"
    for row in rows[-1:] if rounds else rows:
        model = load_defended(job, store, CPU, None if rounds else row["step"])
        assert float((predict(model, test) == test.y).double().mean()) == row["acc"]
    victim, _ = load_victim(VICTIM, store, CPU)
    assert len({row["acc"] for row in rows}) > 1 or rounds
    size = sum(value.numel() for value in store.tensors(job.key).values())
    whole = sum(value.numel() for value in victim.state_dict().values())
    # Candidates share with the victim all but their batch-norm weights.
    assert size <= whole + 1 if rounds else size < whole / 5


def test_weights_that_were_not_kept_are_asked_for_in_one_line(store: Store) -> None:
    plain, kept = (defended(DEFENSES[2], keep=keep) for keep in (False, True))
    rows_of(plain, store)
    rows_of(kept, store)
    with pytest.raises(InputError, match=r"step is None; kept: none, run it with `keep:"):
        load_defended(plain, store, CPU)
    with pytest.raises(InputError, match=r"step is None; kept: 1, 2$"):
        load_defended(kept, store, CPU)
    with pytest.raises(InputError, match=r"step is 7; kept: 1, 2$"):
        load_defended(kept, store, CPU, 7)


def test_a_model_of_another_form_is_not_kept(store: Store) -> None:
    class Wrapping(FT):
        def __call__(self, model: Any, data: Any) -> Any:
            yield nn.Sequential(model, nn.Identity())

    job = replace(defended(FT()), defense=Wrapping(), keep=True)
    (row,) = rows_of(job, store)
    assert "not kept: the model is no longer of its architecture" in row["warning"]
