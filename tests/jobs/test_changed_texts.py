"""A result belongs to the text that ran: plugins and pictures that change under a run."""

import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from job_cases import CPU, VICTIM
from PIL import Image

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.blended import Blended
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.run.failures import run_or_report
from sau_bench.benchmark.run.local import LocalPool

SAYING = """
from dataclasses import dataclass
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Saying(Defense):
    name = "Saying"
    number: int = 0

    def __call__(self, model, data):
        note("text {text}")
        yield model
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "cache")
    run_job(VICTIM, store, Path(), CPU)
    return store


def write(file, text):
    """One length and, with luck, one second: what compiled code is told apart by."""
    file.write_text(SAYING.format(text=text))


def plan(file, number=0):
    """A job as a driver that starts now plans it."""
    for name in [name for name in sys.modules if name.endswith(f".{file.stem}")]:
        del sys.modules[name]
    defense = build("defenses", {str(file): {"number": number}})
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=0.05, score_every=1)
    return job


@pytest.mark.tried("a plugin is edited while a worker has it imported", 1)
@pytest.mark.slow
def test_each_job_runs_the_text_that_it_was_planned_with(tmp_path, store):
    """On one worker: edits between two runs, and during one."""
    file = tmp_path / "saying.py"
    pool = LocalPool([""], limit=60, imports=("sau_bench.benchmark.jobs.run_job",))

    def send(job):
        return job.key, pickle.dumps((partial(run_job, store=store, data=Path(), device=CPU), job))

    def note(message):
        key, sent = message
        assert pool.submit(run_or_report, sent).result(60) is None
        return store.rows(key)[0]["note"]

    try:
        write(file, "A")
        assert note(send(plan(file))) == "text A"
        write(file, "B")
        second = plan(file)
        assert note(send(second)) == "text B"  # a fresh process
        late = send(replace(second, clean_ratio=0.1))
        write(file, "C")
        assert note(late) == "text B"  # its process has the text still
        key, sent = send(plan(file))
        write(file, "D")
        refused = pool.submit(run_or_report, sent).result(60)
        assert refused["error"] == (
            f"plugin 'Saying': {file} has changed since its jobs were planned"
        )
        assert key not in store
        assert note(send(plan(file))) == "text D"
    finally:
        pool.close()


def paint(file, value):
    Image.new("RGB", (8, 8), (value,) * 3).save(file)


def test_a_picture_that_changes_after_planning_is_refused_by_the_worker(tmp_path, store):
    file = tmp_path / "picture.png"
    paint(file, 10)
    job = replace(VICTIM, attack=Blended(image=str(file)))
    sent = pickle.dumps(job)
    paint(file, 200)
    with pytest.raises(InputError, match=r"planned: attack\.image; run again$") as error:
        run_job(pickle.loads(sent), store, Path(), CPU)
    assert "\n" not in str(error.value) and str(job) in str(error.value)
    again = replace(VICTIM, attack=Blended(image=str(file)))
    assert job.key not in store and again.key != job.key
    run_job(pickle.loads(pickle.dumps(again)), store, Path(), CPU)
    assert store.rows(again.key)


def test_the_key_describes_the_very_pixels_of_the_trigger(tmp_path):
    file = tmp_path / "picture.png"
    paint(file, 10)
    attack, x = Blended(image=str(file), alpha=1.0), torch.zeros(1, 3, 4, 4)
    before = attack.canonical()
    paint(file, 200)
    assert (attack.trigger(x) * 255).round().unique().tolist() == [10]
    assert attack.canonical() == before
    later = Blended(image=str(file), alpha=1.0)
    assert (later.trigger(x) * 255).round().unique().tolist() == [200]
    assert later.canonical() != before


def test_a_text_of_a_built_in_plugin_that_was_not_planned_is_refused(store, monkeypatch):
    job = replace(VICTIM, seed=1)
    sent = pickle.dumps(job)
    monkeypatch.setattr(BadNets, "revision", 7)
    with pytest.raises(InputError, match=r"attack\.revision"):
        run_job(pickle.loads(sent), store, Path(), CPU)
    assert job.key not in store
