"""Impolite plugins, one for each global: what they leave changed is named, undone and contained."""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from job_cases import CPU, VICTIM

from sau_bench.benchmark import process
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.jobs import surroundings
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.leaks import SWITCHES, differing, fingerprint, put, take
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.rules import GLOBAL_STATE, UNTOUCHED

DEFENSE = """
import logging, os, random, sys, warnings
import numpy as np
import torch
from dataclasses import dataclass
from torch import nn
from sau_bench.defenses.base import Defense

def leak():
    {leak}

@dataclass(frozen=True, kw_only=True)
class Impolite(Defense):
    name = "Impolite"

    def __call__(self, model, data):
        leak()
        yield model
"""
LEAKS = {
    "torch.set_default_dtype(torch.float64)": "torch's default dtype",
    "torch.set_default_device('meta')": "torch's default device",
    "torch.overrides.BaseTorchFunctionMode().__enter__()": "torch's function modes",
    "torch.set_float32_matmul_precision('medium')": "torch's float32 precision",
    "torch.set_grad_enabled(False)": "torch's gradient mode",
    "sys.leak = torch.inference_mode(); sys.leak.__enter__()": "torch's inference mode",
    "torch.use_deterministic_algorithms(True)": "torch's deterministic algorithms",
    "torch.autograd.set_detect_anomaly(True)": "torch's anomaly detection",
    "torch.set_flush_denormal(True)": "torch's flush of denormal numbers",
    "torch.set_num_threads(3)": "torch's number of threads",
    "torch.set_autocast_enabled('cpu', True)": "torch's autocast",
    "torch.backends.cudnn.enabled = False": "torch.backends.cudnn.enabled",
    "torch.backends.cudnn.benchmark = True": "torch.backends.cudnn.benchmark",
    "torch.backends.cudnn.deterministic = False": "torch.backends.cudnn.deterministic",
    "torch.backends.cudnn.allow_tf32 = True": "torch's float32 precision",
    "torch.backends.cuda.matmul.allow_tf32 = True": "torch's float32 precision",
    "torch._C._set_mkldnn_enabled(False)": "torch.backends.mkldnn.enabled",
    "torch.backends.cuda.enable_flash_sdp(False)": "kernels of torch's attention",
    "nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 0)": (
        "torch's global forward hooks"
    ),
    "nn.modules.module.register_module_forward_pre_hook(lambda m, i: None)": (
        "torch's global forward pre hooks"
    ),
    "from torch.optim.optimizer import register_optimizer_step_pre_hook as register; "
    "register(lambda *_: None)": ("torch's global optimizer pre hooks"),
    "np.seterr(all='raise')": "numpy's error state",
    "warnings.simplefilter('error')": "the warnings that raise",
    "logging.disable(logging.CRITICAL)": "the root logger",
    "logging.getLogger().handlers.clear()": "the root logger",
    "logging.getLogger('sau_bench.benchmark.train').disabled = True": "the root logger",
    "sys.path.insert(0, '/nowhere')": "sys.path",
    "os.chdir('/')": "the working directory",
    "os.environ['PATH'] = ''": "environment variables",
    "del os.environ['PATH']": "environment variables",
    "torch.relu = torch.sigmoid": "torch.relu",
    "nn.functional.relu = torch.sigmoid": "torch.nn.functional.relu",
    "nn.Module.train = lambda self, mode=True: self": "Module.train",
    "torch.Tensor.clamp_ = lambda self, *_: self": "Tensor.clamp_",
    "np.random.seed = print": "numpy.random.seed",
    "random.shuffle = print": "random.shuffle",
    "import sau_bench.benchmark.metrics as m; m.share = lambda hits: 1.0": (
        "sau_bench.benchmark.metrics.share"
    ),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process that is not spoiled, and is as before after the test, whatever happens in it."""
    monkeypatch.setattr(process, "_reasons", [])
    monkeypatch.chdir(tmp_path)
    before = take()
    yield
    put(before, differing(before, take()))
    surroundings._kept_task.cache_clear()


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("cache"))
    run_job(VICTIM, store, Path(), CPU)
    return store


def defend(store, file, number):
    defense = build("defenses", str(file))
    # The share tells apart jobs of one text.
    job = DefenseJob(victim=VICTIM, defense=defense, clean_ratio=number, score_every=1)
    run_job(job, store, Path(), CPU)
    (row,) = store.rows(job.key)
    return row


MEASURED = ("acc", "asr", "racc", "own_acc", "own_acc_before", "status")
shares = (0.05 + number / 10_000 for number in itertools.count())


def polite(store, folder, share):
    file = folder / "polite.py"
    file.write_text(DEFENSE.format(leak="pass"))
    row = defend(store, file, share)
    assert row["warning"] == ""
    return {name: row[name] for name in MEASURED}


@pytest.mark.tried("a plugin leaves a global switch changed", 1)
@pytest.mark.parametrize("leak", LEAKS)
def test_what_a_method_leaves_changed_is_named_and_undone(victim, tmp_path, leak):
    file, share = tmp_path / "impolite.py", next(shares)
    expected = polite(victim, tmp_path, share)
    assert not process.spoiled()
    before = take()
    file.write_text(DEFENSE.format(leak=leak))
    row = defend(victim, file, share)
    told = f"{GLOBAL_STATE}: the method left changed, and the harness has put back: "
    assert row["warning"].startswith(told)
    assert LEAKS[leak] in row["warning"]
    assert differing(before, take()) == []
    assert LEAKS[leak] in process.spoiled()
    # The scores are those of the model that it has yielded, under the switches of all others.
    assert {name: row[name] for name in MEASURED} == expected


def test_every_switch_can_be_put_back_and_reads_alike_twice():
    before = take()
    assert differing(before, take()) == []
    put(before, list(SWITCHES))
    assert differing(before, take()) == []


def test_a_method_that_fails_spoils_its_process_too(victim, tmp_path):
    file = tmp_path / "impolite.py"
    file.write_text(DEFENSE.format(leak="torch.set_default_dtype(torch.float64); 1 / 0"))
    before = take()
    with pytest.raises(ZeroDivisionError):
        defend(victim, file, next(shares))
    assert differing(before, take()) == [] and "default dtype" in process.spoiled()


def test_a_defense_that_stamps_its_images_is_scored_on_clean_ones(victim, tmp_path):
    share = next(shares)
    expected = polite(victim, tmp_path, share)
    file = tmp_path / "stamping.py"
    file.write_text(
        DEFENSE.format(leak="pass").replace("leak()\n", "data.x.zero_(); data.y.zero_()\n")
    )
    row = defend(victim, file, share)
    assert {name: row[name] for name in MEASURED} == expected and not process.spoiled()


STAMPING = """
from dataclasses import dataclass
from sau_bench.attacks.badnets import BadNets

@dataclass(frozen=True, kw_only=True)
class Stamping(BadNets):
    name = "Stamping"

    def __call__(self, model, train, rows, recipe, asset):
        trigger = super().__call__(model, train, rows, recipe, asset)
        {leak}
        return trigger
"""
STAMPS = (
    "train.x.numpy()[0] ^= 1",
    pytest.param("train.x[:, :, :2, :2] = 255", marks=pytest.mark.slow),
    pytest.param("train.y.data[-1] += 1", marks=pytest.mark.slow),
    pytest.param("pass", marks=pytest.mark.slow),
)


@pytest.mark.tried("an attack changes images in place", 1)
@pytest.mark.parametrize("stamp", STAMPS)
def test_images_that_an_attack_changed_reach_neither_its_scores_nor_other_jobs(tmp_path, stamp):
    store, rows, tensors = Store(tmp_path / "cache"), [], []
    for number, leak in enumerate(("pass", stamp)):
        file = tmp_path / f"stamping{number}.py"
        file.write_text(STAMPING.format(leak=leak))
        job = replace(VICTIM, attack=build("attacks", str(file)))
        run_job(job, store, Path(), CPU)
        rows.append(store.rows(job.key)[0])
        tensors.append(store.tensors(job.key))
    told = f"{UNTOUCHED}: it changed the dataset, which is read anew for the scores"
    assert [row["warning"] for row in rows] == ["", told if stamp != "pass" else ""]
    assert bool(process.spoiled()) == (stamp != "pass")
    for name in ("acc", "asr", "racc"):
        assert rows[0][name] == rows[1][name]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    later = replace(VICTIM, seed=1)
    twin = Store(tmp_path / "twin")
    run_job(later, store, Path(), CPU)
    surroundings._kept_task.cache_clear()
    run_job(later, twin, Path(), CPU)
    one, other = store.tensors(later.key), twin.tensors(later.key)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_importing_a_plugin_changes_is_undone_in_a_worker(victim, tmp_path, monkeypatch):
    from sau_bench.benchmark.jobs import leaks

    start = take()
    del start[""]["sau_bench.benchmark.jobs.leaks._start"]
    monkeypatch.setattr(leaks, "_start", start)
    file, share = tmp_path / "importing.py", next(shares)
    expected = polite(victim, tmp_path, share)
    leak = "\ntorch.set_default_dtype(torch.float64)\ntorch.backends.cudnn.benchmark = True\n"
    file.write_text(DEFENSE.format(leak="pass") + leak)
    row = defend(victim, file, share)
    told = "importing its plugins left changed, and the harness has put back: torch's default dtype"
    assert row["warning"].startswith(f"{GLOBAL_STATE}: {told}")
    assert {name: row[name] for name in MEASURED} == expected and process.spoiled()


def images(*shape):
    torch.manual_seed(0)
    return Images(torch.randint(256, shape, dtype=torch.uint8), torch.randint(10, shape[:1]))


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 3, 5, 5), (700, 3, 16, 16)])
def test_a_fingerprint_changes_with_every_pixel_label_and_order(shape):
    data = images(*shape)
    before = fingerprint(data)
    assert before == fingerprint(images(*shape))
    dice = random.Random(0)
    flat = data.x.view(-1)
    for _ in range(200):
        at, bit = dice.randrange(len(flat)), 1 << dice.randrange(8)
        flat[at] ^= bit
        assert fingerprint(data) != before
        flat[at] ^= bit
    data.y[0] += 1
    assert fingerprint(data) != before
    data.y[0] -= 1
    assert fingerprint(data) == before
    if len(data) > 1:
        order = torch.arange(len(data))
        order[0], order[-1] = len(data) - 1, 0
        assert fingerprint(data[order]) != before
        moved = Images(data.x.roll(1 << 18), data.y)
        assert fingerprint(moved) != before
