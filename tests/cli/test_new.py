"""`new` writes plugins that keep their contract; nothing is overwritten."""

import re
import shlex

import pytest
import yaml

from sau_bench.benchmark import contract
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.new import TEMPLATES, text_of
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.loading import build, kinds_of, load
from sau_bench.benchmark.plugin import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_its_contract_and_runs_in_the_grid_that_is_printed(
    kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", kind[:-1], "my_plugin_2"]) == 0
    out = capsys.readouterr().out
    cls = load(kind, "my_plugin_2.py")
    assert (cls.__name__, cls.name) == ("MyPlugin2", "My plugin 2")
    assert kinds_of("my_plugin_2.py") == [kind]
    assert contract.check(kind, cls)
    _, first, second = out.splitlines()
    assert shlex.split(first) == ["sau-bench", "check", "my_plugin_2.py"]
    echo, config, *rest = shlex.split(second)
    assert (echo, rest[:3]) == ("echo", [">", "my_plugin_2.yaml", "&&"])
    assert rest[3:] == ["sau-bench", "run", "my_plugin_2.yaml"]
    (tmp_path / "my_plugin_2.yaml").write_text(config)
    assert yaml.safe_load(config)[kind] == ["my_plugin_2.py"]
    assert len(list(make_grid(read(tmp_path / "my_plugin_2.yaml")).cells())) == 2


def test_a_template_says_its_names_where_they_are_replaced():
    for kind in KINDS:
        text = text_of(kind, "other")
        assert "plugin" not in re.sub("sau_bench.*", "", text).lower().replace("my_images", "")
        assert "class Other(" in text and 'name: ClassVar[str] = "Other"' in text
    assert {file.stem for file in TEMPLATES.glob("[a-z]*.py")} == {kind[:-1] for kind in KINDS}


def test_nothing_is_overwritten(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("precious")
    assert cli.main(["new", "defense", "mine", "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} exists already") and error.count("\n") == 1
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["defense", "Mine"], "name 'Mine', accepted: a small letter"),
        (["defense", "my-defense"], "name 'my-defense', accepted"),
        (["defense", "../x"], "name '../x', accepted"),
        (["defense", "class"], "name 'class', accepted"),
        (["defense", ""], "name '', accepted"),
        (["defense", "sau"], "defense 'sau' exists already; accepted: a new name"),
        (["attack", "badnets.py"], "attack 'badnets' exists already"),
        (["defence", "mine"], "did you mean 'defense'?"),
        (["defense", "mine", "--to", "no/such/folder"], "'no/such/folder' is no folder"),
        (["defense"], "name"),
    ],
)
def test_bad_names_are_one_line(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", *argv]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_two_widths_of_a_new_model_have_two_labels(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text_of("models", "mine"))
    assert {build("models", {str(file): {"width": w}}).label for w in (8, 16)} == {
        "Mine",
        "Mine (width 8)",
    }
