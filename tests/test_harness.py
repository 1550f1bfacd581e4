"""Rows name the harness: by its version, in a clone also by its commit."""

import shutil
import subprocess

import pytest

from sau_bench import __version__
from sau_bench.benchmark import harness

VERSION = f"sau-bench {__version__}"


def git(folder, *words):
    name = ("-c", "user.name=N", "-c", "user.email=n@example.org")
    done = subprocess.run(
        ["git", "-C", folder, *name, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with code and results, in place of that of the harness."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setattr(harness, "_HOME", tmp_path)
    harness.harness.cache_clear()
    for name in (*harness._FOLDERS, "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("one")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "all")
    yield tmp_path
    harness.harness.cache_clear()


def test_a_clone_knows_its_commit_and_whether_its_code_has_changed(clone, monkeypatch):
    commit = git(clone, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(clone / "no-such"))
    (clone / "results" / "file").write_text("rows of a run")
    (clone / "defenses" / "mine.py").write_text("known by its own text")
    assert harness.harness() == f"{VERSION} (commit {commit[:12]})"
    (clone / "defenses" / "file").write_text("two")
    assert harness.harness() == f"{VERSION} (commit {commit[:12]})", "asked once in a process"
    harness.harness.cache_clear()
    assert harness.harness() == f"{VERSION} (commit {commit[:12]}, changed)"


def test_an_installed_package_in_a_repository_of_its_user_is_not_of_that_commit(clone, monkeypatch):
    monkeypatch.setattr(harness, "_HOME", clone / "benchmark")
    assert harness.harness() == VERSION


def test_without_an_answer_of_git_the_version_is_known(clone, monkeypatch):
    monkeypatch.setenv("PATH", str(clone))
    assert harness.harness() == VERSION
    monkeypatch.undo()
    monkeypatch.setattr(harness, "_HOME", clone)
    shutil.rmtree(clone / ".git" / "objects")
    harness.harness.cache_clear()
    assert harness.harness() == VERSION
