"""Plugins: one file, one frozen dataclass; the file's name is the plugin's key.

Fields are hyper-parameters and `__call__` is the method. Nothing is registered: a file that lies in
`attacks/`, `defenses/`, `models/` or `benchmark/datasets/`, a module named by an entry point of the
group `sau_bench.<kind>`, or a file path in the YAML is a plugin.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from benchmark.errors import InputError, nearest

KINDS: Mapping[str, str] = {
    "attacks": "attacks",
    "defenses": "defenses",
    "models": "models",
    "datasets": "benchmark.datasets",
}


@dataclass(frozen=True, kw_only=True)
class Plugin(ABC):
    """A method with its hyper-parameters; constructing one does no work."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ClassVar[str]
    """As the paper writes it, for instance "i-BAU"."""
    revision: ClassVar[int] = 1
    """Raised when the same fields come to mean other numbers; part of every job's key."""
    smoke: ClassVar[Mapping[str, Any]] = {}
    """Field values that make the method fast in tests."""
    argument: ClassVar[str | None] = None
    """The field that `key:VALUE` sets, as in `timm:resnet18`."""

    @property
    def label(self) -> str:
        """What tables print; plugins whose fields change the method's name override it."""
        return self.name

    def canonical(self) -> dict[str, Any]:
        """What identifies the method in a job's key: plugin, revision and fields.

        A plugin given by path is also identified by its content: nobody keeps its name unique
        or raises its revision while it is being written.
        """
        fields = {"plugin": key_of(self), "revision": self.revision, **asdict(self)}
        if type(self).__module__.startswith("plugin_"):
            source = Path(inspect.getfile(type(self))).read_bytes()
            fields["source"] = hashlib.sha256(source).hexdigest()
        return fields

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name, file and fields: a worker has not imported a plugin given by path."""
        cls = type(self)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _restore, (cls.__module__, inspect.getfile(cls), cls.__qualname__, values)


def keys(kind: str) -> list[str]:
    """Keys of all installed plugins of one kind, sorted."""
    package = importlib.import_module(KINDS[kind])
    own = [m.name for m in pkgutil.iter_modules(package.__path__)]
    found = [key for key in own if _class(importlib.import_module(f"{package.__name__}.{key}"))]
    return sorted({*found, *(e.name for e in entry_points(group=f"sau_bench.{kind}"))})


def load(kind: str, key: str) -> type[Plugin]:
    """The plugin class behind a key or the path of a Python file.

    Raises:
        InputError: no such plugin, or the file does not define exactly one.
    """
    installed = {entry.name: entry for entry in entry_points(group=f"sau_bench.{kind}")}
    if key.endswith(".py"):
        module = _import_file(Path(key))
    elif key in installed:
        module = importlib.import_module(installed[key].module)
    elif key.isidentifier() and importlib.util.find_spec(f"{KINDS[kind]}.{key}"):
        # Only the file that is asked for: a broken one beside it is nobody else's problem.
        module = importlib.import_module(f"{KINDS[kind]}.{key}")
    else:
        known = keys(kind)
        raise InputError(
            f"unknown {kind[:-1]} {key!r}; accepted: {', '.join(known)}, or the path of a .py file"
            f"{nearest(key, known)}"
        )
    found = _class(module)
    if found is None:
        raise InputError(f"{key} defines no {kind[:-1]}: accepted is one concrete Plugin class")
    return found


def build(kind: str, spec: str | Mapping[str, Any]) -> Plugin:
    """A plugin from its YAML form: `key`, `key:VALUE` or `{key: {field: value}}`.

    Nested mappings (a recipe, say) are merged over the defaults of the field.

    Raises:
        InputError: unknown plugin or field, wrong type, or a value the plugin refuses.
    """
    given: Any
    if isinstance(spec, str):
        key, given = spec, {}
    elif isinstance(spec, Mapping) and len(spec) == 1:
        key, given = next(iter(spec.items()))
        given = {} if given is None else given
    else:
        raise InputError(f"{kind}: expected a name or {{name: {{field: value}}}}, got {spec!r}")
    if not isinstance(key, str) or not isinstance(given, Mapping):
        raise InputError(f"{kind}: expected {{name: {{field: value}}}}, got {spec!r}")
    key, _, value = key.partition(":") if not key.endswith(".py") else (key, "", "")
    cls = load(kind, key)
    if value:
        if cls.argument is None:
            raise InputError(f"{kind[:-1]} {key!r} takes no ':{value}'")
        given = {cls.argument: value, **given}
    return construct(cls, given, f"{kind[:-1]} {key!r}")


def construct(cls: type[Any], given: Mapping[str, Any], what: str) -> Any:
    """A validated instance of a dataclass from a mapping merged over its defaults.

    Raises:
        InputError: unknown field, wrong type, or a value that `__post_init__` refuses.
    """
    _check_names(cls, given, what)
    try:
        return TypeAdapter(cls).validate_python(_merged(cls, given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(
            f"{what}: {where + ': ' if where else ''}{message}"
            + (f" (given: {first['input']!r})" if where else "")
        ) from None


def key_of(plugin: Plugin) -> str:
    """The key a plugin is found under: its file's name."""
    return type(plugin).__module__.rsplit(".", 1)[-1]


def _check_names(cls: type[Any], given: Mapping[str, Any], what: str) -> None:
    accepted = {f.name: f for f in fields(cls)}
    for name, value in given.items():
        if name not in accepted:
            raise InputError(
                f"{what}: unknown field {name!r}; accepted: {', '.join(accepted)}"
                f"{nearest(str(name), accepted)}"
            )
        default = accepted[name].default
        if isinstance(value, Mapping) and is_dataclass(default) and not isinstance(default, type):
            _check_names(type(default), value, f"{what}: {name}")


def _merged(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(given)
    for f in fields(cls):
        default = f.default
        if default is MISSING or isinstance(default, type) or not is_dataclass(default):
            continue
        values = {g.name: getattr(default, g.name) for g in fields(default)}
        if isinstance(given.get(f.name), Mapping):
            merged[f.name] = values | dict(given[f.name])
    return merged


def _class(module: ModuleType) -> type[Plugin] | None:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Plugin)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and "name" in vars(value)
    ]
    return own[0] if len(own) == 1 else None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no plugin file {str(path)!r}")
    # The digest keeps two files of one name apart; workers import the same name from the same path.
    package = "plugin_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"{package}.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's file raises while it is read
            del sys.modules[name]
            text = " ".join(str(error).split())
            raise InputError(
                f"{path} cannot be imported: {type(error).__name__}: {text}"
            ) from error
    return sys.modules[name]


def _restore(module: str, file: str, name: str, values: dict[str, Any]) -> Any:
    by_path = module.startswith("plugin_")
    loaded = _import_file(Path(file)) if by_path else importlib.import_module(module)
    return getattr(loaded, name)(**values)
