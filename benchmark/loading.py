"""Loading plugins by name, by entry point or by path, and building them from their YAML form.

Nothing is registered: a file that lies in `attacks/`, `defenses/`, `models/` or
`benchmark/datasets/`, an entry point of the group `sau_bench.<kind>` of an installed distribution,
or a file path in the YAML is a plugin.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sau_bench.benchmark.canonical import canonical_json
from sau_bench.benchmark.errors import InputError, listed, nearest, one_line, shown
from sau_bench.benchmark.modules import import_file, import_module
from sau_bench.benchmark.plugin import IDENTITY, KINDS, Plugin, construct, installed

BASES: Mapping[str, str] = {
    "attacks": "sau_bench.attacks.base:Attack",
    "defenses": "sau_bench.defenses.base:Defense",
    "models": "sau_bench.models.classifier:Architecture",
    "datasets": "sau_bench.benchmark.data:Dataset",
}
"""The class that plugins of each kind derive from."""


def plugin_names(kind: str) -> list[str]:
    """Names of all built-in and installed plugins of one kind, sorted."""
    package = importlib.import_module(KINDS[kind])
    files = [m.name for m in pkgutil.iter_modules(package.__path__)]
    built_in = [name for name in files if _is_built_in(kind, name)]
    return sorted({*built_in, *(entry.name for entry in installed(kind))})


def load(kind: str, name: str) -> type[Plugin]:
    """The plugin class behind a name or the path of a Python file.

    Raises:
        InputError: no such plugin, one that cannot be imported or is incomplete, or a name that
            several plugins have.
    """
    if name.endswith(".py"):
        return _the_class(kind, import_file(Path(name)), name)
    entries = [entry for entry in installed(kind) if entry.name == name]
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
        return _the_class(kind, import_module(f"{KINDS[kind]}.{name}", name), name)
    known = plugin_names(kind)
    raise InputError(
        f"unknown {kind[:-1]} {shown(name)}; accepted: {listed(known)}, "
        f"or the path of a .py file{_argument_of(kind, name, known) or nearest(name, known)}"
    )


def kinds_of(name: str) -> list[str]:
    """The kinds of which a name, or the path of a Python file, is a plugin.

    Raises:
        InputError: a file that cannot be imported.
    """
    if not name.endswith(".py"):
        return [kind for kind in KINDS if name in plugin_names(kind)]
    module = import_file(Path(name))
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    return [kind for kind in KINDS if any(issubclass(cls, _base(kind)) for cls in classes)]


def parse(kind: str, spec: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name, with `:VALUE` if it has one, and fields of a plugin's YAML form.

    Raises:
        InputError: neither `name`, `name:VALUE` nor `{name: {field: value}}`.
    """
    values: Any
    if isinstance(spec, str):
        name, values = spec, {}
    elif isinstance(spec, Mapping) and len(spec) == 1:
        name, values = next(iter(spec.items()))
        values = {} if values is None else values
    else:
        raise InputError(
            f"{kind}: expected a name or {{name: {{field: value}}}}, got {shown(spec)}"
        )
    if not isinstance(name, str) or not isinstance(values, Mapping):
        raise InputError(f"{kind}: expected {{name: {{field: value}}}}, got {shown(spec)}")
    return name, values


def class_of(kind: str, name: str) -> type[Plugin]:
    """The plugin class that a name in a config, with or without `:VALUE`, stands for.

    Raises:
        InputError: as of `load`.
    """
    return load(kind, name if name.endswith(".py") else name.partition(":")[0])


def build(kind: str, spec: str | Mapping[str, Any]) -> Plugin:
    """A plugin from its YAML form: `name`, `name:VALUE` or `{name: {field: value}}`.

    Nested mappings (a recipe, say) are merged over the defaults of the field.

    Raises:
        InputError: unknown plugin or field, wrong type, or a value the plugin refuses.
    """
    name, values = parse(kind, spec)
    cls = class_of(kind, name)
    name, colon, value = name.partition(":") if not name.endswith(".py") else (name, "", "")
    what = f"{kind[:-1]} {shown(name, 200)}"
    if colon:
        if cls.argument is None or cls.argument in values or not value:
            raise InputError(f"{what} takes no {shown(':' + value)}{_argument(cls)}")
        values = {cls.argument: _parsed(cls, value), **values}
    plugin: Plugin = construct(cls, values, what)
    _check_usable(plugin, what)
    return plugin


def _argument_of(kind: str, value: str, known: Sequence[str]) -> str:
    """`; did you mean 'timm:resnet18'?` if a plugin takes this value behind a colon.

    known: names of plugins.
    """
    for name in known:
        spec = f"{name}:{value}"
        with suppress(InputError):
            if load(kind, name).argument is not None and build(kind, spec):
                return f"; did you mean {spec!r}?"
    return ""


def _argument(cls: type[Plugin]) -> str:
    return f" here; accepted: :VALUE or {cls.argument}, once" if cls.argument else ""


def _parsed(cls: type[Plugin], value: str) -> Any:
    """The text behind a colon as the type of the field that it sets; as it is where it has none."""
    assert cls.argument is not None
    try:
        return TypeAdapter(get_type_hints(cls)[cls.argument]).validate_python(value)
    except ValidationError:
        return value  # `construct` says what is wrong


def _check_usable(plugin: Plugin, what: str) -> None:
    """Refuse a plugin whose label, hash or key cannot be computed, whatever its code raises.

    Raises:
        InputError: names what fails.
    """
    try:
        hash(plugin)
        canonical_json(plugin.canonical())
        label = plugin.label
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the plugin's properties raise
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{what} has no label or no key: {reason}") from error
    if not isinstance(label, str) or not label.isprintable() or not 0 < len(label) <= 200:
        raise InputError(
            f"{what}: label is {shown(label)}, accepted: 1 to 200 printable characters"
        )


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
        return bool(_classes(kind, import_module(module, name)))
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
            if advice := _plain_base(value):
                raise InputError(f"{where}: {advice}")
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


def no_plugin(file: str) -> str:
    """What is wrong with a file that `kinds_of` finds no plugin in."""
    module = import_file(Path(file))
    for value in vars(module).values():
        if isinstance(value, type) and (advice := _plain_base(value)):
            return f"{file}: {advice}"
    names = [f"{base.rpartition(':')[2]} ({base.rpartition(':')[0]})" for base in BASES.values()]
    return f"{file} defines no plugin; accepted: one class derived from {', '.join(names)}"


def _plain_base(cls: type) -> str:
    """What to write where a base of a class was imported by a plain name: it is another class."""
    for base in cls.__mro__:
        if f"sau_bench.{base.__module__}:{base.__qualname__}" in BASES.values():
            return (
                f"{cls.__qualname__} derives from {base.__module__}.{base.__qualname__}, which is "
                "another class when it is imported so; write "
                f"`from sau_bench.{base.__module__} import {base.__qualname__}`"
            )
    return ""


def _complete(kind: str, cls: type[Plugin], where: str) -> type[Plugin]:
    """The class, if nothing is missing that a plugin needs.

    Raises:
        InputError: names what is missing.
    """
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    missing += [] if isinstance(getattr(cls, "name", None), str) else ["name (a class variable)"]
    if missing:
        advice = '; write `name: ClassVar[str] = "..."`, as tables print it'
        raise InputError(
            f"{where}: class {cls.__qualname__} lacks {' and '.join(missing)}"
            f"{advice if missing[-1].startswith('name') else ''}"
        )
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


def _named(entry: EntryPoint) -> str:
    owner = entry.dist.name if entry.dist else "an unknown distribution"
    return f"{entry.value} of {owner}"


def _from_entry_point(kind: str, entry: EntryPoint) -> type[Plugin]:
    """The class that an entry point names, or the one class of the module that it names.

    Raises:
        InputError: the module cannot be imported, has no such attribute, or it is no plugin.
    """
    where = f"{kind[:-1]} {entry.name!r} ({_named(entry)})"
    module = import_module(entry.module, where)
    if not entry.attr:
        return _the_class(kind, module, where)
    value = getattr(module, entry.attr, None)
    base = _base(kind)
    if not (isinstance(value, type) and issubclass(value, base)):
        what = "does not exist" if value is None else f"is no class derived from {base.__name__}"
        raise InputError(f"{where}: {entry.attr!r} {what}")
    return _complete(kind, value, where)
