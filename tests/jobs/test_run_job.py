"""What a job writes beside its scores: notes, warnings, the texts of plugins, odd statuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from job_cases import CPU, VICTIM

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cost import arithmetic
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.jobs.surroundings import Surroundings
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.plugin import text_digest
from sau_bench.defenses.anp import ANP


def defended(defense, victim=VICTIM):
    return DefenseJob(victim=victim, defense=defense, clean_ratio=0.05, score_every=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A cache with the victim."""
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


def finish(job, store):
    """The rows of the job, and the lines of its log."""
    run_job(job, store, Path(), CPU)
    log = (store.root / job.key / "log.jsonl").read_text().splitlines()
    return store.rows(job.key), [json.loads(line) for line in log]


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        ({"ft": {"recipe": {"epochs": 1, "precision": "bf16"}}}, "bf16"),
        ({"anp": {"iterations": 1, "precision": "bf16", "thresholds": [0.4]}}, "bf16"),
        ("ep", "fp32"),
    ],
)
def test_a_row_says_in_which_precision_its_job_trained(store, defense, expected):
    rows, _ = finish(defended(build("defenses", defense)), store)
    assert {row["arithmetic"] for row in rows} == {expected}
    assert store.rows(VICTIM.key)[0]["arithmetic"] == "fp32"


@pytest.mark.parametrize(
    ("every", "rounds", "scored"),
    [
        (1, 3, [1, 2, 3]),
        (2, 5, [2, 4, 5]),
        (9, 5, [5]),
        ("doubling", 8, [1, 2, 4, 8]),
        ("doubling", 11, [1, 2, 4, 8, 11]),
    ],
)
def test_rounds_are_scored_as_often_as_wanted_and_the_last_one_always(store, every, rounds, scored):
    defense = build("defenses", {"ft": {"recipe": {"epochs": rounds}}})
    rows, _ = finish(replace(defended(defense), score_every=every), store)
    assert [row["step"] for row in rows] == scored


def test_all_candidates_are_scored_however_often_rounds_are(store):
    defense = build("defenses", {"anp": {"iterations": 1, "thresholds": [0.1, 0.2, 0.3, 0.4]}})
    rows, _ = finish(replace(defended(defense), score_every="doubling"), store)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_a_row_says_whether_a_gpu_may_choose_its_kernels():
    fields = {"attack": {"encoder_precision": "bf16"}, "recipe": {"precision": "tf32"}}
    assert arithmetic(fields, True) == {"arithmetic": "tf32"}
    assert arithmetic(fields, False) == {"arithmetic": "tf32, not repeatable"}
    assert arithmetic({"defense": {}}, True) == {"arithmetic": "fp32"}


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_repeatable_unless_that_is_waived_and_on_a_cpu_always(
    store, monkeypatch, deterministic
):
    seen = []

    class Looks(ANP):
        def __call__(self, model, data):
            seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
            yield 0.0, model

    job = defended(Looks(eps=0.123 + deterministic))
    run_job(job, store, Path(), CPU, deterministic)
    assert seen == [(True, False)]
    assert store.rows(job.key)[0]["arithmetic"] == "fp32"
    with Surroundings(Digits(), Path(), CPU, deterministic):
        flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    assert flags == (deterministic, not deterministic)


CHATTY = """
import logging
from dataclasses import dataclass
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Defense
from {package}.words import say

@dataclass(frozen=True, kw_only=True)
class Chatty(Defense):
    name = "Chatty"

    def __call__(self, model, data):
        for epoch in (1, 2):
            logging.getLogger("a name of its own").info(
                "epoch", extra={{"epoch": epoch, "epochs": 2, "loss": 0.5}}
            )
            note("three of %d", 4)
            say("the sky is low")
            yield model
"""
WORDS = """
import logging

def say(text):
    logging.warning(text)
"""


def test_what_an_installed_plugin_logs_reaches_its_row_and_its_log(store, tmp_path, monkeypatch):
    package = tmp_path / "chatty_lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text(WORDS)
    (package / "method.py").write_text(CHATTY.format(package="chatty_lab"))
    info = tmp_path / "chatty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chatty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sau_bench.defenses]\nchatty = chatty_lab.method\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        rows, log = finish(defended(build("defenses", "chatty")), store)
    finally:
        for name in [name for name in sys.modules if name.startswith("chatty_lab")]:
            del sys.modules[name]
    assert {row["note"] for row in rows} == {"three of 4"}
    assert {row["warning"] for row in rows} == {"the sky is low"}
    epochs = [(line["epoch"], line["epochs"], line["loss"]) for line in log if "epoch" in line]
    assert epochs == [(1, 2, 0.5), (2, 2, 0.5)]


def test_libraries_below_the_plugins_are_left_out(store, tmp_path):
    file = tmp_path / "noisy.py"
    source = CHATTY.format(package="chatty_lab").replace("from chatty_lab.words import say", "")
    source = source.replace('say("the sky is low")', "torch_says()")
    source += """
from torch.distributed.elastic.utils.logging import get_logger

def torch_says():
    import torch
    exec(compile("import logging; logging.warning('no')", torch.__file__, "exec"))
"""
    file.write_text(source)
    rows, _ = finish(defended(build("defenses", str(file))), store)
    assert {(row["note"], row["warning"]) for row in rows} == {("three of 4", "")}


def test_a_note_is_no_warning(store):
    rows, _ = finish(defended(ANP(iterations=1, batch_size=8, thresholds=(0.2, 0.4))), store)
    assert all("channels" in row["note"] and row["warning"] == "" for row in rows)


REFUSING = """
from dataclasses import dataclass
from sau_bench.defenses.base import Defense, NotApplicable

@dataclass(frozen=True, kw_only=True)
class Refusing(Defense):
    name = "Refusing"

    def __call__(self, model, data):
        raise NotApplicable("needs a moon")
        yield model
"""


def test_a_method_that_is_not_applicable_still_says_what_was_poisoned(store, tmp_path):
    (tmp_path / "refusing.py").write_text(REFUSING)
    (row,), _ = finish(defended(build("defenses", str(tmp_path / "refusing.py"))), store)
    assert row["status"] == "not applicable" and row["note"] == "needs a moon"
    assert row["poison_ratio"] == store.rows(VICTIM.key)[0]["poison_ratio"] > 0.09
    assert row["kind"] == "rounds" and row["step"] == 0


def test_a_row_holds_what_was_measured_and_nothing_of_the_table(store):
    for row in finish(defended(ANP(iterations=1, batch_size=8)), store)[0]:
        assert not {"select", "uses", "der", "dataset", "defense"} & set(row)
        assert 0 <= row["own_acc_before"] <= 1


def test_the_texts_of_all_plugins_of_a_job_are_recorded(store):
    plugins = VICTIM.plugins
    assert set(plugins) == {"dataset", "architecture", "attack"}
    expected = {role: text_digest(type(plugin)) for role, plugin in plugins.items()}
    assert store.texts(VICTIM.key) == expected and len(set(expected.values())) == 3
