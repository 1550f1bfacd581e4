"""`run_grid.py bench` at a tiny size: what it writes, not how long anything takes."""

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import sau_bench.benchmark.cli.bench as verb
from measurements.bench import run as bench
from measurements.bench import table, turns
from measurements.bench.defenses import PASSES, Plain, defense_items
from measurements.bench.growth import GROWTH, with_classes
from measurements.bench.setting import Item, Record, Setting
from measurements.bench.startup import STARTUP, cached_grid, run_process
from measurements.bench.work import SCORING, STAMPING, training_items
from measurements.plain.network import plain_network
from sau_bench.benchmark.cli.main import main
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.datasets.cifar10 import Cifar10
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.loading import plugin_names
from sau_bench.models.preact_resnet18 import PreActResNet18
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
COMPUTE = [*training_items(("fp32", "bf16")), SCORING, *STAMPING, *defense_items()]
"""Items that a process measures in itself."""


def sound(setting, seconds):
    return Record(group="scoring", name="sound", unit="images/s", product=1.0)


@pytest.fixture(scope="module")
def setting():
    ceilings = {"fp32": 10.0, "bf16": 20.0, "copy": 5.0}
    made = Setting(CPU, Digits(), SmallCNN(width=4), ceilings)
    assert made.fitting(0.0, 48, 256, "fp32") == 16
    return made


@pytest.mark.parametrize("item", COMPUTE, ids=lambda item: item.name)
def test_an_item_has_all_numbers(item, setting):
    line = item.measure(setting, 0.0)
    assert (line.group, line.name) == (item.group, item.name)
    assert line.product > 0 and line.repeats >= 1 and line.images >= 16 and line.peak_mib > 0
    if line.plain is not None:
        assert line.ratio == pytest.approx(line.product / line.plain)
        assert line.plain_peak_mib > 0 and line.plain_images >= 16
    assert line.rate > 0 and line.against in setting.ceilings
    if item.group != "stamping":
        rate = line.passes * setting.forward_flops * line.product / 1e9
        assert line.rate == pytest.approx(rate, rel=1e-6)


def test_every_defense_is_measured_and_those_of_the_targets_have_a_plain_side():
    names = {item.name for item in defense_items()}
    data_free = {"clp"}
    assert len(names) == len({*plugin_names("defenses")} - data_free)
    assert {"sau", "nc", "i_bau", "anp", "at"} <= PASSES.keys()


@pytest.fixture(scope="module")
def narrow():
    """The network of the figures, narrow; its first layer needs no gradient of its input."""
    return Setting(CPU, Cifar10(), PreActResNet18(width=8))


@pytest.mark.parametrize("name", sorted(PASSES))
def test_plain_rounds_cost_the_passes_that_are_told(name, narrow):
    rounds = getattr(Plain(narrow, narrow.victim(), narrow.images(16)), name)()
    next(rounds)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        next(rounds)
    passes = counter.get_total_flops() / 16 / narrow.forward_flops
    assert passes == pytest.approx(PASSES[name](10), rel=0.05)


def test_the_plain_network_is_the_products():
    torch.manual_seed(0)
    model = PreActResNet18(width=4)(Cifar10()).to(memory_format=torch.channels_last)
    plain, x = plain_network(model), torch.rand(8, 3, 32, 32)
    assert type(plain) is not type(model)
    torch.testing.assert_close(plain.train()(x), model.train()(x), rtol=1e-4, atol=1e-5)
    assert all(p.is_contiguous() for p in plain.parameters())
    other = SmallCNN(width=4)(Cifar10())
    assert type(plain_network(other)) is type(other)


def test_growth(setting):
    for item in GROWTH[:-1]:
        line = item.measure(setting, 0.0)
        assert line.note.count(": ") == 3 and line.product == line.product
    wide = with_classes(Digits(), 40)
    assert isinstance(wide, Dataset) and wide.num_classes == 40
    assert SmallCNN(width=4)(wide).num_classes == 40


def test_a_cached_grid_is_finished(tmp_path, capsys):
    words = cached_grid(tmp_path, 30)
    capsys.readouterr()
    assert main(["status", *words]) == 0
    assert capsys.readouterr().out.count("│ done") == 30


def test_commands_in_fresh_processes(setting):
    items = {item.name: item for item in STARTUP}
    line = items["python"].measure(setting, 0.0)
    assert line.product > 0 and line.note == ""
    assert items["help"].measure(setting, 0.0).unit == "s"
    with pytest.raises(RuntimeError, match="ended with 2: error: unknown verb 'runn'"):
        run_process([sys.executable, "run_grid.py", "runn"])


def test_the_verb_writes_json_and_markdown_and_merges(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(turns, "MOST", 1)
    monkeypatch.setattr(bench, "CEILINGS", 0.0)
    words = ["bench", "--device", "cpu", "--model", "small_cnn:4", "--dataset", "digits"]
    words += ["--out", str(tmp_path), "--budget", "2h"]
    assert main([*words, "--only", "stamping BadNets", "--only", "EP"]) == 0
    assert main([*words, "--only", "training"]) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    assert [line["name"] for line in document["measured"]] == [
        *("training fp32", "training bf16", "stamping BadNets", "EP fp32")
    ]
    expected = {field.name for field in fields(Record)}
    assert all(line.keys() == expected for line in document["measured"])
    assert document["ceilings"].keys() == {"fp32", "bf16", "copy"}
    assert document["hardware"]["threads"] == torch.get_num_threads()
    assert "torch" in document["hardware"]["versions"]
    text = (tmp_path / "bench.md").read_text()
    assert text == table.table(document) and "| training fp32 |" in text
    assert "times plain" in capsys.readouterr().out


def test_without_time_everything_is_named_as_skipped(tmp_path):
    bench.run(
        device="cpu", model="small_cnn:4", dataset="digits", out=tmp_path, only=["training"],
        budget=1e-9, say=lambda _: None,
    )  # fmt: skip
    document = json.loads((tmp_path / "bench.json").read_text())
    assert not document["measured"]
    assert document["skipped"] == {
        "training fp32": "no time left", "training bf16": "no time left"
    }  # fmt: skip
    assert "Not measured: training fp32 (no time left)" in (tmp_path / "bench.md").read_text()


def test_a_broken_item_costs_its_line(tmp_path, monkeypatch):
    def broken(setting, seconds):
        raise RuntimeError("no such\nkernel")

    items = [Item("scoring", "broken", 1.0, broken), Item("scoring", "sound", 1.0, sound)]
    monkeypatch.setattr(bench, "_chosen", lambda only, device: items)
    monkeypatch.setattr(bench, "CEILINGS", 0.0)
    status = bench.run(
        device="cpu", model="small_cnn:4", dataset="digits", out=tmp_path, only=[], budget=100,
        say=lambda _: None,
    )  # fmt: skip
    document = json.loads((tmp_path / "bench.json").read_text())
    assert status == 1
    assert document["skipped"] == {"broken": "RuntimeError: no such kernel"}
    assert [line["name"] for line in document["measured"]] == ["sound"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "trainin"], "--only is 'trainin', accepted: training, "),
        (["--budget", "soon"], "--budget is 'soon', accepted: such as 90s"),
        (["--model", "resnet"], "unknown model 'resnet'"),
        pytest.param(
            ["--device", "cuda"], "torch sees no GPU here; accepted: auto, cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(words, told, tmp_path, capsys):
    assert main(["bench", "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_clone_the_verb_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verb, "ROOT", tmp_path)
    assert main(["bench"]) == 2
    error = capsys.readouterr().err
    assert "bench needs the folder measurements/ of a clone" in error and error.count("\n") == 1


@pytest.mark.parametrize("file", sorted(ROOT.glob("measurements/speed/*/bench.json")), ids=str)
def test_committed_tables_come_from_the_committed_json(file):
    assert file.with_suffix(".md").read_text() == table.table(json.loads(file.read_text()))


def test_a_document_that_quotes_a_table_is_brought_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "DOCUMENT", tmp_path / "performance.md")
    file = tmp_path / "cpu" / "bench.md"
    file.parent.mkdir()
    file.write_text("new\n")
    table.DOCUMENT.write_text("a\n<!-- from cpu/bench.md -->\nold\n<!-- end -->\nb\n")
    table.quote(file)
    assert table.DOCUMENT.read_text() == "a\n<!-- from cpu/bench.md -->\nnew\n<!-- end -->\nb\n"
    shutil.rmtree(file.parent)
