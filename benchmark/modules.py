"""Importing the modules of plugins: of packages by name, of files by path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from benchmark.errors import InputError, one_line, shown

BY_PATH = "plugin_"
"""How the package names of files that were imported by path begin."""


def import_module(name: str, where: str) -> ModuleType:
    """A module of a package.

    Args:
        where: what an error calls it.

    Raises:
        InputError: it cannot be imported, for whatever reason.
    """
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file raises, sys.exit included
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{where} cannot be imported: {reason}") from error


def import_file(path: Path) -> ModuleType:
    """The module of a Python file, imported once.

    Raises:
        InputError: there is no such file, or it cannot be imported, for whatever reason.
    """
    if not _is_file(path):
        raise InputError(f"no plugin file {shown(str(path), 200)}")
    # The digest keeps two files of one name apart; workers import the same name from the same path.
    package = BY_PATH + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"{package}.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            del sys.modules[name]
            raise
        except BaseException as error:  # whatever the file raises, sys.exit included
            sys.modules.pop(name, None)
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise InputError(f"{path} cannot be imported: {reason}") from error
    return sys.modules[name]


def is_by_path(module: str) -> bool:
    """Whether a module of this name was imported from the path of a file."""
    return module.startswith(BY_PATH)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False
