"""The package as users have it: a wheel of this tree, installed, away from any clone."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "sau_bench", "results/paper", "configs")
SOURCES += ("attacks", "benchmark", "defenses", "models")
"""All that a wheel is made of."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel; `python` and `sau-bench` are in `bin`."""

    wheel: Path
    bin: Path

    def package(self, tree, target):
        """Install a package that depends on the wheel into a folder."""
        alone = ("--no-deps", "--no-build-isolation", "--no-index")
        subprocess.run([*PIP, "install", *alone, "--target", target, tree], check=True)

    def run(self, *command, cwd, **environment):
        """The finished process of a command that sees nothing of this clone but what is copied.

        In scripts, `EXAMPLES` and `COMMITTED` are its folders of examples and of results.
        """
        outside = _outside()
        outside |= {"EXAMPLES": str(ROOT / "examples"), "COMMITTED": str(ROOT / "results")}
        outside |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
        return subprocess.run(
            [str(part) for part in command],
            env=outside | {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"} | environment,
            cwd=cwd,
            capture_output=True,
            text=True,
        )


def _outside():
    """The environment of this process without what points to this clone."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SAU_BENCH"))}


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A fresh environment that has the wheel, and from this one what the wheel depends on."""
    folder = tmp_path_factory.mktemp("installed")
    tree, environment = folder / "tree", folder / "environment"
    for name in SOURCES:
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            unused = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, symlinks=True, ignore=unused)
        else:
            shutil.copyfile(source, target)
    make = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, tree]
    subprocess.run(make, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, env=_outside())
    # Behind the environment's own packages: this clone's are not found, as files of this kind are
    # not read in folders that another one names.
    packages = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (Path(packages) / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return Installed(wheel, environment / "bin")
