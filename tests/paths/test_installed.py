"""An installed package is the whole software, wherever it is called."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from sau_bench import __version__
from sau_bench.benchmark.loading import plugin_names
from sau_bench.benchmark.plugin import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PLAIN = ("attacks", "benchmark", "defenses", "models", "configs", "results")
SHADOW = "raise SystemExit('a folder of the user was imported')\n"


@pytest.fixture
def project(tmp_path):
    """A folder of a user, with packages that are called as those of a clone."""
    for name in PLAIN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(SHADOW)
    return tmp_path


def test_a_wheel_has_every_module_config_and_published_number_and_nothing_else(installed):
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert {name.split("/")[0] for name in names} == {"sau_bench"}
    folders = {name: ROOT / name for name in PLAIN[:-1]} | {"paper": ROOT / "results" / "paper"}
    files = {
        f"sau_bench/{name}/{file.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for file in folder.rglob("*.*")
        if "__pycache__" not in file.parts and "pictures" not in file.parts
    }
    pictures = {"sau_bench/attacks/pictures/blended.png"}
    assert names == files | pictures | {"sau_bench/__init__.py"}


def test_the_command_is_the_whole_software(installed, project):
    def run(*argv):
        return installed.run("sau-bench", *argv, cwd=project)

    assert run("--version").stdout == f"sau-bench {__version__}\n"
    assert run("--help").stdout.startswith("usage: sau-bench ")
    for kind in KINDS:
        listed = run("list", kind)
        assert re.findall(r"^(\w+): ", listed.stdout, re.M) == plugin_names(kind)
        assert listed.returncode == 0 and "broken" not in listed.stdout
    dry = run("run", "quickstart", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (0, "6 jobs: 6 to run, 0 cached")
    assert run("run", "paper/table3", "--dry-run").stdout.startswith("66 jobs: 66 to run")
    unknown = run("status", "table4")
    assert unknown.returncode == 2 and "did you mean 'paper/table4'?" in unknown.stderr
    state = run("status", "quickstart")
    assert state.returncode == 1 and "SAU" in state.stdout
    bench = run("bench")
    assert bench.returncode == 2 and "measurements/ of a clone" in bench.stderr


def test_a_package_offers_its_attack_by_an_entry_point(installed, tmp_path):
    tree = shutil.copytree(ROOT / "examples" / "package", tmp_path / "package")
    installed.package(tree, tmp_path / "packages")
    config = tmp_path / "mine.yaml"
    config.write_text("datasets: [digits]\nmodels: [small_cnn]\nattacks: [dimming]\n")

    def run(*argv):
        packages = str(tmp_path / "packages")
        return installed.run("sau-bench", *argv, cwd=tmp_path, PYTHONPATH=packages)

    assert "\ndimming: Dimming" in run("list", "attacks").stdout
    dry = run("run", config, "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (0, "1 jobs: 1 to run, 0 cached")


@pytest.mark.parametrize("name", ["quickstart", "cifar10_cpu"])
def test_a_report_of_committed_rows_is_the_committed_one(installed, project, name):
    """Published cells, names of plugins and configs: all that a report needs is in the wheel."""
    committed, folder = ROOT / "results" / name, project / "results" / name
    folder.mkdir()
    for file in committed.glob("*.csv"):
        shutil.copyfile(file, folder / file.name)
    done = installed.run("sau-bench", "report", name, cwd=project)
    assert done.returncode == 0, done.stderr
    for table in (committed / "tables").iterdir():
        assert (folder / "tables" / table.name).read_text() == table.read_text()
