"""Which harness this is: its version and, in a clone, the commit. Does not import torch."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from sau_bench import __version__

_HOME = Path(__file__).resolve().parents[1]
"""In a clone its top level, in an installed package `sau_bench`."""
_FOLDERS = ("attacks", "benchmark", "defenses", "models", "sau_bench")


@cache
def harness() -> str:
    """Such as "sau-bench 0.1.0", in a clone "sau-bench 0.1.0 (commit 4f8bdf3a6b1e, changed)".

    changed: a committed file of the code is not as in the commit. Asks git once in a process; where
    that does not answer, the version is all that is known.
    """
    commit = _commit(_HOME) if (_HOME / ".git").exists() else ""
    return f"sau-bench {__version__}{f' ({commit})' if commit else ''}"


def _commit(home: Path) -> str:
    command = ["git", "-C", str(home), "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--", *_FOLDERS]
    # Variables of a hook, say, name another repository; and reading must not lock this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a repository that it does not trust
        return ""
    lines = done.stdout.splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    changed = any(not line.startswith("#") for line in lines)
    return f"commit {oid[:12]}{', changed' if changed else ''}" if oid else ""
