"""Importing the modules of plugins: of packages by name, of files by path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from sau_bench.benchmark.errors import InputError, one_line, shown

BY_PATH = "plugin_"
"""How the package names of files that were imported by path begin."""

_texts: dict[str, str] = {}


def import_module(name: str, where: str) -> ModuleType:
    """A module of a package.

    Args:
        where: what an error calls it.

    Raises:
        InputError: it cannot be imported, for whatever reason.
    """
    try:
        with _exactly(name):
            return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file raises, sys.exit included
        raise InputError(f"{where} cannot be imported: {_reason(error)}") from error


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
        loader = _Exact(name, os.path.abspath(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
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
            raise InputError(f"{path} cannot be imported: {_reason(error)}") from error
    return sys.modules[name]


def is_by_path(module: str) -> bool:
    """Whether a module of this name was imported from the path of a file."""
    return module.startswith(BY_PATH)


def text_digest(module: str) -> str:
    """The sha256 of the text of an imported module: of the code that runs, not of the file now.

    Exact for what `import_module` and `import_file` have imported; of another module the file is
    read when this is first called.
    """
    if module not in _texts:
        _texts[module] = file_digest(Path(str(sys.modules[module].__file__)))
    return _texts[module]


def file_digest(file: Path) -> str:
    """The sha256 of a file as it is now; empty if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


ADVICE = {
    "cannot inherit non-frozen dataclass": "write @dataclass(frozen=True, kw_only=True)",
    "non-default argument": "write @dataclass(frozen=True, kw_only=True)",
    "mutable default": "use a tuple, or field(default_factory=...)",
    **{
        f"No module named '{name}": f"this project's are imported as sau_bench.{name}"
        for name in ("attacks", "benchmark", "defenses", "models")
    },
}
"""What to do about errors of imports that authors of plugins meet, by how Python's words begin."""


def _reason(error: BaseException) -> str:
    text = one_line(error)
    advice = next((f"; {told}" for words, told in ADVICE.items() if text.startswith(words)), "")
    return f"{type(error).__name__}: {text[:200]}{advice}"


class _Exact(SourceFileLoader):
    """Compiles the very bytes that it hashes.

    Compiled code beside the file is not used: it counts as fresh if the file's size and the second
    of its last change are the same.
    """

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path)
        code: CodeType = self.source_to_code(text, self.path)
        _texts[fullname] = hashlib.sha256(text).hexdigest()
        return code


class _Finder(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None  # of another kind, or found by another finder
        spec.loader = _Exact(fullname, spec.loader.path)
        return spec


@contextmanager
def _exactly(name: str) -> Iterator[None]:
    """Inside the block, the module of this name is imported by `_Exact`."""
    finder = _Finder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False
