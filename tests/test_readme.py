"""The README says what the repository holds."""

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from benchmark import contract
from benchmark.cli.main import VERBS
from benchmark.grid.config import read
from benchmark.grid.grid import make_grid
from benchmark.jobs.job import key
from benchmark.plugin import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BLOCKS = re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", README, re.S)


@pytest.mark.parametrize(("file", "text"), BLOCKS, ids=[file for file, _ in BLOCKS])
def test_quoted_files_are_quoted_as_they_are(file, text):
    quoted = re.sub(r"^```.*\n", "", text, flags=re.M).strip()
    assert quoted == (ROOT / file).read_text().strip()


def test_a_table_of_committed_rows_and_the_example_plugin_are_quoted():
    files = [file for file, _ in BLOCKS]
    assert "examples/bn_reset.py" in files
    assert any(file.startswith("results/cifar10_cpu/tables/") for file in files)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_name_verbs_and_configs_that_exist():
    for verb, *rest in re.findall(r"run_grid\.py (\w+)(?: (configs/\S+))?", README):
        assert verb in VERBS
        assert all((ROOT / config).is_file() for config in rest if config)


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"<!-- test command -->\n```bash\n(.*?)```", README, re.S)
    assert command is not None and "-m pytest" in command[1]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_the_example_plugin_keeps_the_contract():
    contract.check("defenses", load("defenses", str(ROOT / "examples" / "bn_reset.py")))


def test_the_example_without_a_grid_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "one_model.py"))
    assert "fine-tuned" in capsys.readouterr().out


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_committed_rows_come_from_the_committed_configs(file):
    grid = make_grid(read(file))
    if not (ROOT / "results" / file.stem).exists():
        return  # its run needs a GPU; that it makes a grid is all there is to test
    rows = pd.read_csv(ROOT / "results" / file.stem / "rows.csv")
    assert list(dict.fromkeys(rows["key"])) == [
        *(key(defended or victim) for victim, defended in grid.cells()),
        *map(key, grid.references),
    ]
