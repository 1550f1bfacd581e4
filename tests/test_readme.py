"""The documents say what the repository holds."""

import re
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sau_bench.benchmark import contract
from sau_bench.benchmark.cli.main import INCOMPLETE, INPUT_ERROR, INTERRUPTED, TERMINATED, VERBS
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.fields import described
from sau_bench.benchmark.grid.config import Config, When, read
from sau_bench.benchmark.grid.document import BYTES, DEPTH, NODES
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.loading import build, load, plugin_names
from sau_bench.benchmark.plugin import KINDS
from sau_bench.benchmark.shipped import config_names
from sau_bench.benchmark.train import Recipe

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
MAKE = runpy.run_path(str(ROOT / "docs" / "make.py"))
EXAMPLES = {
    "examples/bn_reset.py": "defenses",
    "examples/dormant.py": "defenses",
    "examples/first_learned.py": "defenses",
    "examples/stripe.py": "attacks",
    "examples/grey_digits.py": "datasets",
    "examples/package/src/dimming/__init__.py": "attacks",
}
YAML = [
    (document, block)
    for document in DOCUMENTS
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", document.read_text(), re.S | re.M)
]
SMALL = {"datasets": ["digits"], "models": ["small_cnn"], "attacks": ["badnets"]}


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_documents_quote_the_repository_as_it_is(document):
    """Otherwise: python docs/make.py"""
    assert MAKE["filled"](document) == document.read_text()


def test_a_block_that_differs_is_made_anew(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("a\n\n<!-- from run_grid.py -->\nold\n<!-- end -->\n\nb\n")
    fence = f"```python\n{(ROOT / 'run_grid.py').read_text().strip()}\n```"
    expected = f"a\n\n<!-- from run_grid.py -->\n{fence}\n<!-- end -->\n\nb\n"
    assert MAKE["filled"](document) == expected


def test_a_table_of_committed_rows_and_the_example_plugins_are_quoted():
    assert "<!-- from examples/bn_reset.py -->" in README
    assert "<!-- from results/cifar10_cpu/tables/" in README
    plugins = (ROOT / "docs" / "plugins.md").read_text()
    for file in ("dormant.py", "stripe.py", "grey_digits.py", "plugins.yaml"):
        assert f"<!-- from examples/{file} -->" in plugins


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_config_has_a_meaning(kind):
    classes = [Config, When, Recipe, *(load(kind, name) for name in plugin_names(kind))]
    fields = [(cls, field) for cls in classes for field in described(cls)]
    assert [f"{cls.__name__}.{field.name}" for cls, field in fields if not field.meaning] == []
    assert [field for _, field in fields if not field.type or field.type == "any"] == []


def test_the_reference_names_the_limits_of_a_file():
    text = " ".join((ROOT / "docs" / "config.md").read_text().split())
    assert f"{BYTES:,} bytes, {NODES:,} values and {DEPTH} levels" in text


@pytest.mark.parametrize(
    ("document", "block"), YAML, ids=[f"{named(d)}-{i}" for i, (d, _) in enumerate(YAML)]
)
def test_examples_of_configs_make_grids(document, block, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shutil.copytree(ROOT / "configs" / "paper", tmp_path, dirs_exist_ok=True)
    content = yaml.safe_load(block)
    content = content if "defaults" in content else SMALL | content
    (tmp_path / "example.yaml").write_text(yaml.safe_dump(content))
    if document.name == "interop.md":  # of folders that readers have
        with pytest.raises(InputError, match=r"folder is .* accepted: one with"):
            make_grid(read(tmp_path / "example.yaml"))
    else:
        assert make_grid(read(tmp_path / "example.yaml")).jobs()


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
    called = r"(?:run_grid\.py|sau-bench) ([a-z]+)(?: ([\w./]+))?"
    for verb, argument in re.findall(called, text):
        assert verb in VERBS, verb
        if verb in ("run", "status", "report", "show") and argument not in ("", "my.yaml"):
            assert argument in config_names() or (ROOT / argument).is_file(), argument


def test_the_readme_is_short():
    assert len(README.split()) <= 1300


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"<!-- test command -->\n```bash\n(.*?)```", README, re.S)
    assert command is not None and "-m pytest" in command[1]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_example_plugins_keep_the_contract(file):
    kind = EXAMPLES[file]
    contract.check(kind, load(kind, str(ROOT / file)))


def test_the_examples_are_all_named():
    files = {named(file) for file in (ROOT / "examples").rglob("*.py")}
    assert files == {*EXAMPLES, "examples/one_model.py"}


def test_the_example_dataset_is_fetched_and_keeps_the_contract(tmp_path):
    dataset = build("datasets", str(ROOT / "examples" / "grey_digits.py"))
    dataset.fetch(tmp_path)
    contract.datasets.check_splits(dataset, dataset(tmp_path))


def test_the_example_without_a_grid_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "one_model.py"))
    assert "fine-tuned" in capsys.readouterr().out


@pytest.mark.parametrize(("file", "rows"), ROWS, ids=[file.stem for file, _ in ROWS])
def test_committed_rows_come_from_the_committed_configs(file, rows):
    keys = [job.key for job in make_grid(read(file)).places]
    assert list(dict.fromkeys(pd.read_csv(rows)["key"])) == keys


def test_the_reference_of_the_command_line_has_every_verb_and_exit_status():
    text = (ROOT / "docs" / "cli.md").read_text()
    assert re.findall(r"<!-- verb of (\w+) -->", text) == list(VERBS)
    told = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert told == {0, INCOMPLETE, INPUT_ERROR, INTERRUPTED, TERMINATED}
