"""The documents say what the repository holds."""

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from sau_bench.benchmark import contract
from sau_bench.benchmark.cli.main import VERBS
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.loading import load

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*/README.md")])
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
ROWS = [
    (file, rows)
    for file in CONFIGS
    if (
        rows := ROOT / "results" / file.relative_to(ROOT / "configs").with_suffix("") / "rows.csv"
    ).exists()
]
BLOCKS = [
    (document, *block)
    for document in DOCUMENTS
    for block in re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", document.read_text(), re.S)
]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("document", "file", "text"), BLOCKS, ids=[f"{named(d)}-{file}" for d, file, _ in BLOCKS]
)
def test_quoted_files_are_quoted_as_they_are(document, file, text):
    quoted = re.sub(r"^```.*\n", "", text, flags=re.M).strip()
    assert quoted == (ROOT / file).read_text().strip()


def test_a_table_of_committed_rows_and_the_example_plugin_are_quoted():
    files = [file for document, file, _ in BLOCKS if document == ROOT / "README.md"]
    assert "examples/bn_reset.py" in files
    assert any(file.startswith("results/cifar10_cpu/tables/") for file in files)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        outside = target.replace("\n", " ").startswith("https://")
        assert outside or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_into_documents_lead_to_headings(document):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
        text = (document.parent / target if target else document).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
        assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_name_verbs_and_configs_that_exist(document):
    text = document.read_text()
    for verb, *rest in re.findall(r"run_grid\.py (\w+)(?: (configs/[\w./]+))?", text):
        assert verb in VERBS
        assert all((ROOT / config).is_file() for config in rest if config)


def test_the_readme_is_short():
    assert len(README.split()) <= 1300


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"<!-- test command -->\n```bash\n(.*?)```", README, re.S)
    assert command is not None and "-m pytest" in command[1]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_the_example_plugin_keeps_the_contract():
    contract.check("defenses", load("defenses", str(ROOT / "examples" / "bn_reset.py")))


def test_the_example_without_a_grid_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "one_model.py"))
    assert "fine-tuned" in capsys.readouterr().out


@pytest.mark.parametrize(("file", "rows"), ROWS, ids=[file.stem for file, _ in ROWS])
def test_committed_rows_come_from_the_committed_configs(file, rows):
    keys = [job.key for job in make_grid(read(file)).places]
    assert list(dict.fromkeys(pd.read_csv(rows)["key"])) == keys
