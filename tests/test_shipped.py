"""Configs by name, and which file a name means."""

import sys
from pathlib import Path

import pytest

from sau_bench.benchmark import shipped
from sau_bench.benchmark.cli import bench
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.published import read_paper
from sau_bench.benchmark.shipped import command, config_names, find_config

ROOT = Path(__file__).parents[1]


def test_the_folders_of_this_clone_are_shipped():
    assert shipped.CONFIGS.resolve() == ROOT / "configs"
    assert shipped.PAPER.resolve() == ROOT / "results" / "paper"
    assert read_paper() is not None
    assert (bench.ROOT / "measurements" / "bench").is_dir()


def test_every_config_has_a_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = {file.relative_to(ROOT) for file in (ROOT / "configs").rglob("*.yaml")}
    assert {find_config(name) for name in config_names()} == files
    assert find_config("paper/table3") == Path("configs/paper/table3.yaml")


def test_elsewhere_a_name_means_the_same_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config("paper/table3") == ROOT / "configs" / "paper" / "table3.yaml"


def test_a_file_counts_more_than_a_name_and_a_folder_does_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find_config("quickstart") == ROOT / "configs" / "quickstart.yaml"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").touch()
    assert find_config("quickstart") == Path("quickstart")


def test_a_path_of_which_nothing_is_shipped_is_left_to_the_reader(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config("mine/table3.yml") == Path("mine/table3.yml")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("quickstrat", "quickstart"),
        ("table4", "paper/table4"),
        ("configs/paper/table4.yaml", "paper/table4"),
        ("quickstart.yaml", "quickstart"),
        ("x" * 5000, None),
        ("a\0b", None),
        ("", None),
    ],
)
def test_a_name_of_nothing_is_refused_with_the_nearest(monkeypatch, tmp_path, text, meant):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="accepted: the path of a file, or cifar10_cpu") as error:
        find_config(text)
    assert ("did you mean" in str(error.value)) == bool(meant)
    assert not meant or f"did you mean {meant!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("called", "advised"),
    [
        ("/a/clone/run_grid.py", "python run_grid.py"),
        ("/an/environment/bin/sau-bench", "sau-bench"),
        ("-c", "sau-bench"),
    ],
)
def test_advice_names_the_command_that_was_called(monkeypatch, called, advised):
    monkeypatch.setattr(sys, "argv", [called])
    assert command() == advised
