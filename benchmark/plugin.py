"""Plugins: one file, one frozen dataclass; the file's name is the plugin's name.

Fields are hyper-parameters and `__call__` is the method. `benchmark.loading` says where plugins
are.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sau_bench.benchmark import modules
from sau_bench.benchmark.errors import InputError, listed, nearest, one_line, shown
from sau_bench.benchmark.modules import import_file, import_module, is_by_path
from sau_bench.benchmark.process import Stale

KINDS: Mapping[str, str] = {
    "attacks": "sau_bench.attacks",
    "defenses": "sau_bench.defenses",
    "models": "sau_bench.models",
    "datasets": "sau_bench.benchmark.datasets",
}
"""The package of the built-in plugins of each kind."""
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
        return pickled(self)


def plugin_name(plugin: Plugin) -> str:
    """The name of the plugin in a config: its file's name."""
    return type(plugin).__module__.rsplit(".", 1)[-1]


def config_name(cls: type) -> str:
    """How a config names a plugin class: by path, entry point, or the name of a built-in file."""
    module = cls.__module__
    if is_by_path(module):
        return inspect.getfile(cls)
    entries = (entry for kind in KINDS for entry in installed(kind))
    names = [e.name for e in entries if e.module == module and e.attr in ("", cls.__qualname__)]
    return names[0] if names else module.rsplit(".", 1)[-1]


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
    if is_by_path(module):
        return text
    where = {"distribution": _distribution(module), "module": module, "class": cls.__qualname__}
    return where | text


def text_digest(cls: type) -> str:
    """The sha256 of the text that the class was imported from, see `benchmark.modules`."""
    return modules.text_digest(cls.__module__)


def pickled(value: Any) -> tuple[Any, ...]:
    """What `__reduce__` of a dataclass in a plugin's file returns: class, text and fields.

    A worker has not imported a plugin given by path, or has imported an earlier text of the file.
    """
    cls = type(value)
    values = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    where = cls.__module__, inspect.getfile(cls), cls.__qualname__
    return _restore, (*where, text_digest(cls), values)


def unannotated(cls: type) -> list[str]:
    """Names that a plugin's file gives values in its class, but no annotation: they are no fields.

    Without methods, names that begin with an underscore, and class variables of the base classes.
    """
    annotated = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}
    return [
        name
        for base in cls.__mro__
        if base.__module__ == cls.__module__
        for name, value in vars(base).items()
        if not (name.startswith("_") or name in annotated)
        and not (callable(value) or hasattr(value, "__get__"))
    ]


def lacks_annotation(cls: type, name: str) -> str:
    """What to say of a name of `unannotated`."""
    value = getattr(cls, name)
    return (
        f"{cls.__name__}.{name} is no field, so no config can set it; write `{name}: "
        f"{type(value).__name__} = {shown(value)}`, or `ClassVar[...]` for a constant"
    )


def installed(kind: str) -> list[EntryPoint]:
    """The entry points by which installed distributions offer plugins of a kind."""
    return _installed(tuple(sys.path)).get(kind, [])


@cache
def _installed(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """`installed` for every kind: reading them of all distributions takes a hundredth of a second.

    path: where distributions are looked for.
    """
    return {kind: list(entry_points(group=f"sau_bench.{kind}")) for kind in KINDS}


def construct(cls: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """A validated instance of a dataclass from a mapping merged over its defaults.

    Raises:
        InputError: unknown field, wrong type, or a value that `__post_init__` refuses.
    """
    _check_names(cls, values, what)
    try:
        # As JSON, not as Python values: there strict means that a list is a tuple and an integer is
        # a float, but true is no number, 1 is no bool and "1" is neither.
        text = json.dumps(_merged(cls, values), allow_nan=False, default=_fields)
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        first, *others = error.errors()
        loc, messages = first["loc"], [first["msg"]]
        for other in others:  # of a field that takes several types, one for each
            if other["input"] == first["input"] and other["loc"][:-1] == first["loc"][:-1] != ():
                loc = first["loc"][:-1]
                messages.append(other["msg"].removeprefix("Input should be "))
        where = ".".join(str(part) for part in loc)
        message = one_line(" or ".join(messages)).removeprefix("Value error, ")[:200]
        # The words of YAML, not those of JSON.
        message = message.replace("a valid array", "a list").replace("an object", "a mapping")
        raise InputError(
            f"{what}: {where + ': ' if where else ''}{message}"
            + (f" (given: {shown(first['input'])})" if where else "")
        ) from None
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever a plugin's __post_init__ raises, sys.exit included
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{what} cannot be made: {reason}") from error


def _fields(value: Any) -> dict[str, Any]:
    """A recipe, say, as the mapping that it would be in a config."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    raise ValueError(f"a value of type {type(value).__name__} ({shown(value)})")


def _check_names(cls: type[Any], values: Mapping[str, Any], what: str) -> None:
    accepted = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in accepted:
            if name in unannotated(cls):
                raise InputError(f"{what}: {lacks_annotation(cls, name)}")
            raise InputError(
                f"{what}: unknown field {shown(name)}; accepted: {listed(accepted)}"
                f"{nearest(str(name), accepted)}"
            )
        if (number := _not_finite(value)) is not None:
            raise InputError(f"{what}: {name} is {number}, accepted: finite numbers")
        default = accepted[name].default
        if isinstance(value, Mapping) and is_dataclass(default) and not isinstance(default, type):
            _check_names(type(default), value, f"{what}: {name}")


def _not_finite(value: Any) -> float | None:
    """The first number in a value, or in what it contains, that is infinite or NaN."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    inside = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        return next((n for n in map(_not_finite, inside) if n is not None), None)
    return None


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


def _distribution(module: str) -> str:
    """The name of the distribution whose entry point offers a module's plugin."""
    for kind in KINDS:
        for entry in installed(kind):
            if entry.module == module and entry.dist:
                return str(entry.dist.name)
    return ""


def _restore(module: str, file: str, name: str, text: str, values: dict[str, Any]) -> Any:
    """The value, made by the text that it was pickled with.

    Raises:
        Stale: this process has imported another text; one that imports the file anew has the text.
        InputError: the file has changed.
    """
    imported = module in sys.modules
    loaded = import_file(Path(file)) if is_by_path(module) else import_module(module, name)
    if modules.text_digest(module) != text:
        if imported and modules.file_digest(Path(file)) == text:
            raise Stale(f"{file} was imported before it changed")
        raise InputError(f"plugin {name!r}: {file} has changed since its jobs were planned")
    return getattr(loaded, name)(**values)
