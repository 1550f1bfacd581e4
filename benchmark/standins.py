"""Stand-ins for heavy packages, so that plugins can be read for their fields without torch.

What a config or a list of plugins says (names, fields, labels, keys of jobs) depends on no tensor,
but plugin files import torch at their top, which takes seconds. Inside `without_torch` an import of
torch and its kin gives a stand-in whose attributes can be inherited, called and subscripted, as the
module level of a plugin file does. Nothing can be computed with a stand-in, and none can enter a
key: it is no JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

PACKAGES = ("torch", "torchvision", "timm", "sklearn", "safetensors")

T = TypeVar("T")


class _StandIn(type):
    """A class whose attributes, items, unions and instances are stand-ins as well."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        if (
            len(arguments) == 1
            and callable(arguments[0])
            and not isinstance(arguments[0], _StandIn)
        ):
            return arguments[0]  # a decorator
        return cls

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    def __ror__(cls, _: Any) -> Any:
        return cls


def _stand_in(name: str) -> Any:
    return _StandIn(name, (), {"__module__": __name__})


class _Module(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """A stand-in has no code."""


@contextmanager
def _standing_in() -> Iterator[None]:
    """Inside, imports of `PACKAGES` give stand-ins; what was imported inside is forgotten after it.

    But for packages with compiled modules, which cannot be imported twice in a process.
    """
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        new = {name: module for name, module in sys.modules.items() if name not in before}
        suffixes = tuple(EXTENSION_SUFFIXES)
        compiled = {
            name.partition(".")[0]
            for name, module in new.items()
            if str(getattr(module, "__file__", None) or "").endswith(suffixes)
        }
        for name in new:
            if name.partition(".")[0] not in compiled:
                del sys.modules[name]


def without_torch(read: Callable[[], T]) -> T:
    """What `read` returns, with stand-ins for torch where they do, else with torch.

    read: imports what it uses inside its body and returns plain values: no plugin outlives the
    call, since its modules are imported anew when torch is there.

    A plugin may use torch in ways that no stand-in can serve, and bad input must be reported as it
    is with torch. So after any exception `read` is called once more, without stand-ins. Where torch
    has been imported already, there is nothing to save.
    """
    if "torch" in sys.modules:
        return read()
    try:
        with _standing_in():
            return read()
    except Exception:
        return read()
