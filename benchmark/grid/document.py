"""The text of a config, read strictly and without torch: plain values, nothing ambiguous.

YAML can say more than a config needs, and some of it ends in a wrong number or in no memory: a key
that is there twice (the last one wins), a date or an octal number where a name or a number is
meant, an alias of an alias of an alias. Such a file is refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from sau_bench.benchmark.errors import InputError, shown

BYTES, NODES, DEPTH = 2**18, 10_000, 20
"""At most: the size of a file, its values with aliases written out, and the depth of nesting."""

_PLAIN = "tag:yaml.org,2002:"
_SCALARS = {_PLAIN + name for name in ("null", "bool", "int", "float", "str", "merge")}
# YAML 1.1 also counts in base 60 and base 8: 1:30 is 90, and 010 is 8.
_AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*_|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 of PyYAML, but for numbers such as 1e-4, which are numbers as in YAML 1.2."""

    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > DEPTH:
            raise _Refused(f"nested deeper than {DEPTH} levels", self.peek_event())
        if self.nodes > NODES:
            raise _Refused(f"more than {NODES:,} values", self.peek_event())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    first: list(entries) for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _PLAIN + "float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class _Refused(Exception):
    """YAML that no config needs. where: a node or an event, which knows its line."""

    def __init__(self, why: str, where: Any) -> None:
        super().__init__(f"line {where.start_mark.line + 1}: {why}")


def read_document(path: Path) -> Any:
    """The value of a YAML file: mappings with text as keys, lists, text, numbers, bools, None.

    Raises:
        InputError: no such file; no text in UTF-8, no YAML, or YAML that is larger, deeper or
            cleverer than a config needs; names the line.
    """
    try:
        return _value(_text(path))
    except FileNotFoundError:
        there = sorted(str(p) for p in path.parent.glob("*.yaml"))
        listed = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise InputError(
            f"no config {shown(str(path), 200)}; found: {listed[:200] or 'none'}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {str(path)!r}: no UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {shown(str(path), 200)}: {error}"[:400]) from None
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None


def _text(path: Path) -> str:
    status = path.stat()
    if not S_ISREG(status.st_mode):  # a pipe would be waited for
        raise OSError("it is no file")
    if status.st_size > BYTES:
        raise OSError(f"it has {status.st_size:,} bytes, accepted: at most {BYTES:,}")
    with path.open("rb") as stream:
        return stream.read(BYTES).decode()


def _value(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(loader: _Loader, node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node has with its aliases written out; what no config needs is refused.

    sizes: of the nodes that were counted before; 0 marks one that is not complete.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _Refused("an alias that contains itself", node)
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    match node:
        case yaml.ScalarNode():
            _check_scalar(loader, node)
        case yaml.SequenceNode():
            _check_tag(loader, node, yaml.SequenceNode)
            size += sum(_check(loader, entry, sizes) for entry in node.value)
        case yaml.MappingNode():
            _check_tag(loader, node, yaml.MappingNode)
            names = set()
            for key, entry in node.value:
                size += _check(loader, key, sizes) + _check(loader, entry, sizes)
                if key.tag not in (_PLAIN + "str", _PLAIN + "merge"):
                    got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "no scalar"
                    raise _Refused(f"a key must be text (in quotes if need be), got {got}", key)
                if key.value in names:
                    raise _Refused(f"the key {shown(key.value)} is there twice", key)
                names.add(key.value)
    if size > NODES:
        raise _Refused(f"more than {NODES:,} values, with aliases written out", node)
    sizes[id(node)] = size
    return size


def _check_scalar(loader: _Loader, node: yaml.ScalarNode) -> None:
    _check_tag(loader, node, yaml.ScalarNode, (node.style is None, node.style is not None))
    text, kind = node.value, node.tag.removeprefix(_PLAIN)
    if node.tag not in _SCALARS:
        raise _Refused(f"{shown(text)} is a {kind}; accepted: text, in quotes", node)
    if found := _CONTROL.search(text):
        raise _Refused(f"text with the character {found.group()!a}", node)
    if kind in ("int", "float"):
        if _AMBIGUOUS.fullmatch(text):
            raise _Refused(f"{shown(text)} is a number in an uncommon base", node)
        if len(text) > 100:
            raise _Refused(f"a number of {len(text):,} digits", node)
        if kind == "float" and not math.isfinite(loader.construct_yaml_float(node)):
            raise _Refused(f"{text} is no finite number", node)


def _check_tag(
    loader: _Loader, node: yaml.Node, kind: type, implicit: tuple[bool, bool] = (True, False)
) -> None:
    """Refuse a tag that is not the one that the value has without it."""
    if node.tag != loader.resolve(kind, node.value, implicit):
        raise _Refused(f"the tag {shown(node.tag)}; accepted: values without a tag", node)
