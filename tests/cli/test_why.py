"""`why` says where the number of a cell comes from."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.canonical import job_key
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.harness import harness
from sau_bench.benchmark.jobs.run_job import run_job

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quickstart.yaml"
CELL = ("attack=badnets", "defense=sau")
TORCHLESS = (
    "import sys; from sau_bench.benchmark.cli.main import main; code = main(sys.argv[1:]);"
    "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision', 'timm')]);"
    "sys.exit(code)"
)


def why(capsys, config, *cell, **options):
    """(status, texts by name with the lines of one name joined, the JSON)."""
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    status = cli.main(["why", str(config), *cell, *flags])
    return status, *parsed(capsys.readouterr().out)


def parsed(out):
    head, _, job = out.partition("job JSON, whose hash is the key:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in head.splitlines():
        assert len(line) <= 80 or " " not in line.strip()[14:]
        name = line[:14].strip() or name
        texts[name] = f"{texts.get(name, '')} {line[14:].strip()}".strip()
    return texts, json.loads(job)


def test_committed_rows_are_explained_without_cache_and_without_torch():
    argv = ["why", str(CONFIG), *CELL, "--results", str(ROOT / "results"), "--cache", "/no/cache"]
    done = subprocess.run(
        [sys.executable, "-c", TORCHLESS, *argv], capture_output=True, text=True, cwd=ROOT
    )
    *lines, imported = done.stdout.splitlines()
    assert done.returncode == 0 and imported == "[]", done.stderr
    texts, identity = parsed("\n".join(lines))
    rows = pd.read_csv(ROOT / "results" / "quickstart" / "rows.csv", keep_default_na=False)
    run = rows[(rows["attack"] == "BadNets") & (rows["defense"].str.startswith("SAU"))]
    victim = rows[(rows["attack"] == "BadNets") & (rows["kind"] == "victim")].iloc[0]
    last = run.iloc[-1]
    assert texts["key"] == last["key"] == job_key(identity)
    assert texts["needs"].startswith(victim["key"])
    assert texts["config"].startswith(str(CONFIG)) and "defenses: " in texts["config"]
    assert texts["ran on"].startswith(last["device"])
    assert texts["versions"].startswith(last["versions"])
    assert f"step {last['step']} of {last['step']}, by the rule 'last'" in texts["counts"]
    acc, asr = 100 * last["acc"], 100 * last["asr"]
    assert texts["numbers"].startswith(f"ACC {acc:.2f}, ASR {asr:.2f}, RACC ")
    der = (max(0, 100 * victim["asr"] - asr) - max(0, 100 * victim["acc"] - acc) + 100) / 2
    assert f"= {der:.2f}, of" in texts["DER"] and f"- {asr:.2f})" in texts["DER"]
    file, numbers = re.fullmatch(r"(.*), lines ([\d, ]+)", texts["rows"]).groups()
    written = Path(file).read_text().splitlines()
    assert [written[int(n) - 1].split(",")[5] for n in numbers.split(", ")] == [last["key"]] * len(
        run
    )
    assert texts["cache"].startswith("not in /no/cache: neither job.json nor log nor weights")
    assert texts["defense"].startswith("sau, defenses/sau.py, sha256 ")
    assert texts["defense"].endswith("its text then is not known")
    assert texts["seed"] == "0"


TINY = {
    "datasets": ["digits"],
    "models": ["small_cnn:4"],
    "attacks": ["badnets", {"badnets": {"value": 0.5}}],
    "defenses": [{"anp": {"iterations": 1, "thresholds": [0.2, 0.4]}}],
    "seeds": [0, 1],
    "recipe": {"epochs": 1, "lr": 0.05},
    "when": [{"dataset": "digits", "defenses": {"anp": {"batch_size": 8}}}],
    "select": {"ANP": "fixed:0.2"},
}
HERE = ("attack=BadNets", "seed=1", "defense=anp")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, results): a grid of which one victim and its defense are finished, with rows."""
    folder = tmp_path_factory.mktemp("why")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY, sort_keys=False))
    grid = make_grid(read(config), ["attack=BadNets,seed=1"])
    store = Store(folder / "results" / "cache")
    for job in grid.jobs():
        run_job(job, store, Path(), torch.device("cpu"))
    (folder / "results" / "tiny").mkdir()
    grid.rows(store).to_csv(folder / "results" / "tiny" / "rows.csv", index=False)
    return config, folder / "results"


def test_a_cached_cell_has_log_texts_and_the_rule_that_picked_its_row(finished, capsys):
    config, results = finished
    status, texts, _ = why(capsys, config, *HERE, results=results)
    assert status == 0 and texts["seed"] == "1"
    assert texts["cell"] == "Digits / Small CNN (width 4) / BadNets / ANP / 1"
    assert Path(texts["log"].replace(" ", "")).read_text()
    assert texts["cache"].endswith("with job.json and rows.json")
    assert texts["versions"] == f"torch {torch.__version__}, {harness()}"
    assert texts["defense"].endswith("as when it ran") and texts["attack"].endswith("when it ran")
    assert "thresholds: [0.2, 0.4]}}, changed by `when`" in texts["config"]
    assert "attacks: badnets defenses:" in texts["config"]
    assert "setting 0.2, by the rule 'fixed:0.2'" in texts["counts"]
    assert "channels" in texts["note"]
    status, texts, _ = why(capsys, config, "attack=BadNets,seed=1,defense=No Defense",
                           results=results)  # fmt: skip
    assert status == 0 and "DER" not in texts and texts["numbers"].startswith("ACC ")


@pytest.mark.parametrize("name", ["anp", "ANP"])
def test_a_rule_is_found_by_the_name_of_the_plugin_and_by_the_label(
    name, finished, tmp_path, capsys
):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY | {"select": {name: "fixed:0.4"}}, sort_keys=False))
    status, texts, _ = why(capsys, config, *HERE, results=finished[1])
    assert status == 0 and "setting 0.4, by the rule 'fixed:0.4'" in texts["counts"]


def test_rows_that_do_not_name_the_harness_are_explained(finished, tmp_path, capsys):
    config, results = finished
    shutil.copytree(results / "tiny", tmp_path / "tiny")
    file, torch_alone = tmp_path / "tiny" / "rows.csv", f"torch {torch.__version__}"
    pd.read_csv(file).assign(versions=torch_alone).to_csv(file, index=False)
    status, texts, _ = why(capsys, config, *HERE, results=tmp_path)
    assert status == 0
    assert texts["versions"] == f"{torch_alone}, that of the harness is not recorded"


def test_what_is_not_there_is_said(finished, tmp_path, capsys):
    config, results = finished
    others = "attack=BadNets (value=0.5)", "seed=0", "defense=anp"
    status, texts, _ = why(capsys, config, *others, results=results)
    assert status == 1 and "has no row of this key" in texts["rows"]
    status, texts, _ = why(capsys, config, *HERE, results=tmp_path)
    assert status == 1 and "is not there: `run` writes it" in texts["rows"]
    changed = tmp_path / "tiny.yaml"
    changed.write_text(yaml.safe_dump(TINY | {"clean_ratio": 0.06}))
    shutil.copytree(results / "tiny", tmp_path / "results" / "tiny")
    status, texts, _ = why(capsys, changed, *HERE, results=tmp_path / "results")
    assert status == 1 and "its config has changed" in texts["rows"]


def test_a_text_that_changed_since_and_a_failure_are_named(finished, tmp_path, capsys):
    config, results = finished
    shutil.copytree(results, tmp_path / "results")
    store = Store(tmp_path / "results" / "cache")
    *_, job = make_grid(read(config), ["attack=BadNets,seed=1,defense=anp"]).jobs()
    rows = store.rows(job.key)
    store.remove(job.key)
    with store.draft(job.key) as draft:
        draft.write_json("job.json", job.canonical())
        draft.write_json("texts.json", {"defense": "0" * 64})
        draft.write_json("rows.json", rows)
    status, texts, _ = why(capsys, config, *HERE, results=tmp_path / "results")
    assert status == 0 and texts["defense"].endswith("CHANGED since it ran, then 000000000000")
    store.remove(job.key)
    store.record_failure(job.key, {"error": "E: no", "kind": "error"})
    status, texts, _ = why(capsys, config, *HERE, results=tmp_path / "results")
    assert texts["cache"].startswith("failed: E: no; ")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (
            ["attack=BadNets"],
            "selects 4 cells, accepted: one; defense: No Defense, ANP; seed: 0",
        ),
        (["attack=badnet"], "'attack=badnet' selects 0 cells, accepted: one; attack: BadNets, "),
        (["badnets"], "CELL: 'badnets' is not AXIS=NAME"),
        ([], "AXIS=NAME"),
    ],
)
def test_other_cells_are_bad_input_in_one_line(finished, cell, told, capsys):
    config, results = finished
    assert cli.main(["why", str(config), *cell, "--results", str(results)]) == 2
    out, error = capsys.readouterr()
    assert told in error and error.count("\n") == 1 and out == ""
