"""Plugins: one file, one frozen dataclass; the file's name is the plugin's name.

Fields are hyper-parameters and `__call__` is the method. Nothing is registered: a file that lies in
`attacks/`, `defenses/`, `models/` or `benchmark/datasets/`, an entry point of the group
`sau_bench.<kind>` of an installed distribution, or a file path in the YAML is a plugin.
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
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from benchmark.errors import InputError, nearest, one_line

KINDS: Mapping[str, str] = {
    "attacks": "attacks",
    "defenses": "defenses",
    "models": "models",
    "datasets": "benchmark.datasets",
}
"""The package of the built-in plugins of each kind."""
BASES: Mapping[str, str] = {
    "attacks": "attacks.base:Attack",
    "defenses": "defenses.base:Defense",
    "models": "models.classifier:Architecture",
    "datasets": "benchmark.data:Dataset",
}
"""The class that plugins of each kind derive from."""
IDENTITY = ("plugin", "revision", "distribution", "module", "class", "source")
"""What a job's key says of a plugin beside its fields; no field may have one of these names."""


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
    """The field that `name:VALUE` sets, as in `timm:resnet18`."""

    @property
    def label(self) -> str:
        """What tables print; plugins whose fields change the method's name override it."""
        return self.name

    def canonical(self) -> dict[str, Any]:
        """What identifies the method in a job's key: plugin, origin, revision and fields."""
        cls = type(self)
        name = {"plugin": plugin_name(self), "revision": self.revision}
        return asdict(self) | name | origin(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name, file and fields: a worker has not imported a plugin given by path."""
        cls = type(self)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _restore, (cls.__module__, inspect.getfile(cls), cls.__qualname__, values)


def plugin_name(plugin: Plugin) -> str:
    """The name of the plugin in a config: its file's name."""
    return type(plugin).__module__.rsplit(".", 1)[-1]


def origin(cls: type) -> dict[str, str]:
    """What tells a class from outside the tree from a built-in one of the same name and fields.

    Empty for a built-in class, whose author raises its `revision`. Elsewhere nobody is known to
    keep names unique or to raise revisions, so the text of the file counts, and for an installed
    distribution its name, module and class as well.
    """
    module = cls.__module__
    if module.rpartition(".")[0] in KINDS.values():
        return {}
    text = {"source": text_digest(cls)}
    if _is_by_path(module):
        return text
    where = {"distribution": _distribution(module), "module": module, "class": cls.__qualname__}
    return where | text


def text_digest(cls: type) -> str:
    """The sha256 of the file that defines the class, read once in a process."""
    return _digest(inspect.getfile(cls))


@lru_cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def plugin_names(kind: str) -> list[str]:
    """Names of all built-in and installed plugins of one kind, sorted."""
    package = importlib.import_module(KINDS[kind])
    files = [m.name for m in pkgutil.iter_modules(package.__path__)]
    built_in = [name for name in files if _is_built_in(kind, name)]
    return sorted({*built_in, *(entry.name for entry in _installed(kind))})


def load(kind: str, name: str) -> type[Plugin]:
    """The plugin class behind a name or the path of a Python file.

    Raises:
        InputError: no such plugin, one that cannot be imported or is incomplete, or a name that
            several plugins have.
    """
    if name.endswith(".py"):
        return _the_class(kind, _import_file(Path(name)), name)
    entries = [entry for entry in _installed(kind) if entry.name == name]
    built_in = _is_built_in(kind, name)
    if len(entries) + built_in > 1:
        owners = [_named(entry) for entry in entries]
        owners[:0] = [f"{KINDS[kind].replace('.', '/')}/{name}.py"] if built_in else []
        raise InputError(
            f"{kind[:-1]} {name!r} is the name of several plugins: {', '.join(owners)}; "
            "accepted: one plugin for each name (rename or uninstall the others)"
        )
    if entries:
        return _from_entry_point(kind, entries[0])
    if built_in:
        # Only the named file is imported: a broken one beside it costs its own users alone.
        return _the_class(kind, _import_module(f"{KINDS[kind]}.{name}", name), name)
    known = plugin_names(kind)
    raise InputError(
        f"unknown {kind[:-1]} {name!r}; accepted: {', '.join(known)}, or the path of a .py file"
        f"{nearest(name, known)}"
    )


def build(kind: str, spec: str | Mapping[str, Any]) -> Plugin:
    """A plugin from its YAML form: `name`, `name:VALUE` or `{name: {field: value}}`.

    Nested mappings (a recipe, say) are merged over the defaults of the field.

    Raises:
        InputError: unknown plugin or field, wrong type, or a value the plugin refuses.
    """
    values: Any
    if isinstance(spec, str):
        name, values = spec, {}
    elif isinstance(spec, Mapping) and len(spec) == 1:
        name, values = next(iter(spec.items()))
        values = {} if values is None else values
    else:
        raise InputError(f"{kind}: expected a name or {{name: {{field: value}}}}, got {spec!r}")
    if not isinstance(name, str) or not isinstance(values, Mapping):
        raise InputError(f"{kind}: expected {{name: {{field: value}}}}, got {spec!r}")
    name, _, value = name.partition(":") if not name.endswith(".py") else (name, "", "")
    cls = load(kind, name)
    if value:
        if cls.argument is None:
            raise InputError(f"{kind[:-1]} {name!r} takes no ':{value}'")
        values = {cls.argument: value, **values}
    return construct(cls, values, f"{kind[:-1]} {name!r}")


def construct(cls: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """A validated instance of a dataclass from a mapping merged over its defaults.

    Raises:
        InputError: unknown field, wrong type, or a value that `__post_init__` refuses.
    """
    _check_names(cls, values, what)
    try:
        return TypeAdapter(cls).validate_python(_merged(cls, values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(
            f"{what}: {where + ': ' if where else ''}{message}"
            + (f" (given: {first['input']!r})" if where else "")
        ) from None


def _check_names(cls: type[Any], values: Mapping[str, Any], what: str) -> None:
    accepted = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in accepted:
            raise InputError(
                f"{what}: unknown field {name!r}; accepted: {', '.join(accepted)}"
                f"{nearest(str(name), accepted)}"
            )
        default = accepted[name].default
        if isinstance(value, Mapping) and is_dataclass(default) and not isinstance(default, type):
            _check_names(type(default), value, f"{what}: {name}")


def _merged(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for f in fields(cls):
        default = f.default
        if default is MISSING or isinstance(default, type) or not is_dataclass(default):
            continue
        defaults = {g.name: getattr(default, g.name) for g in fields(default)}
        if isinstance(values.get(f.name), Mapping):
            merged[f.name] = defaults | dict(values[f.name])
    return merged


def _base(kind: str) -> type[Plugin]:
    module, _, name = BASES[kind].partition(":")
    base: type[Plugin] = getattr(importlib.import_module(module), name)
    return base


def _classes(kind: str, module: ModuleType) -> list[type[Plugin]]:
    """The classes of the kind that a module defines; abstract ones without a name are bases."""
    base = _base(kind)
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not (inspect.isabstract(value) and not hasattr(value, "name"))
    ]


def _is_built_in(kind: str, name: str) -> bool:
    """Whether the kind's package has a plugin file of this name, even one that is broken."""
    module = f"{KINDS[kind]}.{name}"
    if not name.isidentifier() or importlib.util.find_spec(module) is None:
        return False
    try:
        return bool(_classes(kind, _import_module(module, name)))
    except InputError:  # `load` says what is wrong
        return True


def _the_class(kind: str, module: ModuleType, where: str) -> type[Plugin]:
    """The one plugin class of a module.

    Raises:
        InputError: there is none, there are several, or it is incomplete.
    """
    what = kind[:-1]
    classes = _classes(kind, module)
    if len(classes) > 1:
        listed = ", ".join(cls.__qualname__ for cls in classes)
        raise InputError(f"{where} defines several plugins, {listed}; accepted: one {what} a file")
    if classes:
        return _complete(kind, classes[0], where)
    base = _base(kind)
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            if issubclass(value, base) and value is not base:
                return _complete(kind, value, where)
            other = next((k for k in KINDS if issubclass(value, _base(k))), None)
            if other:
                raise InputError(
                    f"{where} defines no {what}: {value.__qualname__} is one of the {other}"
                )
    raise InputError(
        f"{where} defines no {what}; accepted: one class derived from {base.__name__} "
        f"({base.__module__})"
    )


def _complete(kind: str, cls: type[Plugin], where: str) -> type[Plugin]:
    """The class, if nothing is missing that a plugin needs.

    Raises:
        InputError: names what is missing.
    """
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    missing += [] if isinstance(getattr(cls, "name", None), str) else ["name (a class variable)"]
    if missing:
        raise InputError(f"{where}: class {cls.__qualname__} lacks {' and '.join(missing)}")
    if "__dataclass_params__" not in vars(cls) or not cls.__dict__["__dataclass_params__"].frozen:
        raise InputError(
            f"{where}: class {cls.__qualname__} is not a frozen dataclass; "
            "accepted: @dataclass(frozen=True, kw_only=True)"
        )
    for f in fields(cls):
        if f.name in IDENTITY:
            raise InputError(
                f"{where}: field {f.name!r} of {cls.__qualname__} has a name that job keys use; "
                f"accepted: any other than {', '.join(IDENTITY)}"
            )
    return cls


def _installed(kind: str) -> list[EntryPoint]:
    return list(entry_points(group=f"sau_bench.{kind}"))


def _named(entry: EntryPoint) -> str:
    owner = entry.dist.name if entry.dist else "an unknown distribution"
    return f"{entry.value} of {owner}"


def _from_entry_point(kind: str, entry: EntryPoint) -> type[Plugin]:
    """The class that an entry point names, or the one class of the module that it names.

    Raises:
        InputError: the module cannot be imported, has no such attribute, or it is no plugin.
    """
    where = f"{kind[:-1]} {entry.name!r} ({_named(entry)})"
    module = _import_module(entry.module, where)
    if not entry.attr:
        return _the_class(kind, module, where)
    value = getattr(module, entry.attr, None)
    base = _base(kind)
    if not (isinstance(value, type) and issubclass(value, base)):
        what = "does not exist" if value is None else f"is no class derived from {base.__name__}"
        raise InputError(f"{where}: {entry.attr!r} {what}")
    return _complete(kind, value, where)


def _distribution(module: str) -> str:
    """The name of the distribution whose entry point offers a module's plugin."""
    for kind in KINDS:
        for entry in _installed(kind):
            if entry.module == module and entry.dist:
                return str(entry.dist.name)
    return ""


def _import_module(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the plugin's file raises while it is imported
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{where} cannot be imported: {reason}") from error


def _is_by_path(module: str) -> bool:
    return module.startswith("plugin_")


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
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"{path} cannot be imported: {reason}") from error
    return sys.modules[name]


def _restore(module: str, file: str, name: str, values: dict[str, Any]) -> Any:
    by_path = _is_by_path(module)
    loaded = _import_file(Path(file)) if by_path else importlib.import_module(module)
    return getattr(loaded, name)(**values)
