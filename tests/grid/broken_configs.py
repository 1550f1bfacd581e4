"""A corpus of configs that have to be refused: from valid ones, by replacing one thing at a time.

`corpus()` gives every case; none depends on a random number. A case is the bytes of a config and
the plugin files that lie beside it; `FOLDER` in either stands for the folder that they lie in.
"""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.loading import load, plugin_names
from sau_bench.benchmark.plugin import Plugin, plugin_name
from sau_bench.benchmark.train import Recipe

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SHIPPED = [file for file in CONFIGS if "include:" not in file.read_text()]
FOLDER = "FOLDER"
AXES = ("datasets", "models", "attacks", "defenses")
SMALL: dict[str, Any] = {
    "datasets": ["digits"],
    "models": ["small_cnn"],
    "attacks": ["badnets"],
    "defenses": ["ft"],
}

DATE = datetime.date(2026, 1, 31)
VALUES = [
    *(math.nan, math.inf, -math.inf, -1, 0, 10**30, 10**400, True, "1", "", [], {}, None, DATE),
    *([[1]], [[[[[1]]]]], {"a": {"b": [1]}}, [None], {"recipe": None}, "no such thing"),
]
"""What a leaf is replaced by. Some of it is right in some places: see `_is_right`."""
ZERO = {
    *(("recipe", name) for name in ("lr", "weight_decay", "momentum")),
    *(("teacher", name) for name in ("lr", "weight_decay", "momentum")),
    *(("unlearning", name) for name in ("lr", "weight_decay", "momentum")),
    *(("recovering", name) for name in ("lr", "weight_decay", "momentum")),
    *(("rnp", name) for name in ("clean_threshold", "thresholds")),
    ("sau_aware", "weight"),
    *(("wanet", "s"), ("wanet", "cross_ratio"), ("lf", "delta"), ("ssba", "hold")),
    *(("input_aware", name) for name in ("lambda_div", "lambda_norm", "mask_density")),
    *(("anp", name) for name in ("eps", "alpha", "lr", "momentum", "thresholds")),
    *(("sau", f"lambda_{i}") for i in range(1, 5)),
    *(("i_bau", name) for name in ("eta", "inner_lr", "l2", "lr")),
    *(
        ("nc", "betas"),
        ("nad", "betas"),
        ("ep", "u"),
        ("clp", "u"),
        ("at", "clean_weight"),
        ("", "seeds"),
    ),
}
"""Fields that may be 0, by owner; `target` may be everywhere."""
OPTIONAL = {"period", "betas", "stages", "effective_acc"}
"""Fields that may be null."""
LISTS = {"thresholds", "betas", "seeds"}
"""Fields of `ZERO` with a list of numbers; where another one has a list, that is a sweep."""
TEXT = {"data"}
"""Fields with any text."""


@dataclass(frozen=True)
class Case:
    """One config that has to be refused.

    name: what is wrong. content: of the config, bytes or what YAML can write. files: plugins
    beside it, by name.
    """

    name: str
    content: Any
    files: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the config and its plugins; the path of the config."""
        for name, source in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        path = folder / "grid.yaml"
        plain = isinstance(self.content, bytes)
        content = self.content if plain else _dump(self.content).encode()
        path.write_bytes(content.replace(FOLDER.encode(), str(folder).encode()))
        return path


def corpus() -> list[Case]:
    """Every case, in an order that does not change."""
    cases = [*_leaves(), *_structures(), *_texts(), *_grids(), *_files(), *_plugins()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)[:5]
    return cases


def bases() -> dict[str, Any]:
    """Valid configs: the shipped ones, and one for each plugin that sets all of its fields."""
    found: dict[str, Any] = {file.stem: yaml.safe_load(file.read_text()) for file in SHIPPED}
    found["all keys"] = SMALL | {
        **{f.name: _plain(f) for f in fields(Config) if f.name not in SMALL},
        "seeds": [0, 1],
        "recipe": {f.name: _plain(f) for f in fields(Recipe)},
        "select": {"FT": "last"},
        "effective_acc": 0.5,
        "data": "data",
    }
    for axis in AXES:
        for name in plugin_names(axis):
            values = {f.name: _plain(f) for f in fields(load(axis, name)) if f.init}
            # Made from other attacks, or from files that a case would have to bring.
            if values and name not in ("multi", "imported", "folder"):
                found[f"{axis} {name}"] = SMALL | {axis: [{name: values}]}
    parts = {"first": {"blended": {"alpha": 0.1}}, "second": {"badnets": {"target": 1}}}
    found["attacks multi"] = SMALL | {"attacks": [{"multi": parts}]}
    stages = {"betas": [1.0, 2.0], "stages": ["stage2", "stage3"]}
    found["sweeps"] = SMALL | {
        "attacks": [{"badnets": {"ratio": [0.1, 0.2]}}, {"multi": {"first": ["lf", "ssba"]}}],
        "defenses": [
            {"ep": {"u": [1.0, 2.0]}},
            {"sau": {"recipe": {"lr": [0.1, 0.2], "epochs": 2}}},
            {"nad": {"betas": [[1.0], [1.0, 2.0]]}},
        ],
        "clean_ratio": [0.1, 0.2],
    }
    found["when"] = SMALL | {
        "when": [
            {
                "dataset": "digits",
                "model": ["small_cnn", "timm"],
                "recipe": {"epochs": 2},
                "attacks": {"badnets": {"ratio": 0.2, "recipe": {"lr": 0.1}}},
                "defenses": {"ft": {"recipe": {"epochs": 3}}, "nad": {"betas": [1.0]}},
            }
        ]
    }
    found["stages"] = SMALL | {"defenses": [{"nad": stages}]}
    return copy.deepcopy(found)


def _plain(f: Any) -> Any:
    """The default of a field as YAML writes it."""
    value = f.default_factory() if f.default is MISSING else f.default
    if isinstance(value, Plugin):
        return {plugin_name(value): {g.name: _plain(g) for g in fields(value)}}
    if is_dataclass(value) and not isinstance(value, type):
        return {g.name: getattr(value, g.name) for g in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _leaves() -> Iterator[Case]:
    """Each value of each valid config, replaced by each of the bad ones."""
    for base, content in bases().items():
        for path in _paths(content):
            before = _at(content, path)
            for number, value in enumerate(VALUES):
                if not _is_right(path, before, value):
                    name = f"{base}: {'.'.join(map(str, path))} = value {number}"
                    yield Case(name, _replaced(content, path, value))


def _is_right(path: tuple[Any, ...], before: Any, value: Any) -> bool:
    """Whether the value may stand there, by what the documentation says of the place."""
    names = [part for part in path if isinstance(part, str)]
    name, owner = names[-1], names[-2] if len(names) > 1 else ""
    whole = name == path[-1]  # of a list, as opposed to one of its entries
    if type(value) is type(before) and value == before:
        return True
    if isinstance(before, bool) and isinstance(value, bool):
        return True
    if isinstance(before, dict):
        # A plugin without fields, no rule, or nothing to change of a recipe.
        return (value == {} and isinstance(value, dict)) or (
            value is None and owner in (*AXES, "first", "second", "attack")
        )
    if name in ("defenses", "when") and whole and value == [] and isinstance(value, list):
        return True
    if value is None:
        condition = owner == "when" and name in ("dataset", "model")
        return whole and (name in OPTIONAL or condition)
    if isinstance(value, str):
        free = name in TEXT and isinstance(before, str) and value != ""
        return free or (name == "image" and value == "")
    if value == 0 and type(value) is int:
        sweep = whole and isinstance(before, list) and name not in LISTS
        number = sweep or type(before) in (int, float)
        return number and (name == "target" or (owner, name) in ZERO)
    return False


def _structures() -> Iterator[Case]:
    """Keys that are unknown, twice there, missing or of another type, in each mapping."""
    for base, content in bases().items():
        for path in [(), *(p for p in _paths(content) if isinstance(_at(content, p), dict))]:
            where = f"{base}: {'.'.join(map(str, path))}"
            mapping = _at(content, path)
            if path and path[-1] == "select":
                continue
            for key in ("unknown", 1, 1.5, None, True, DATE, ""):
                changed = copy.deepcopy(content)
                _at(changed, path)[key] = 1
                yield Case(f"{where}: key {key!r}", changed)
            for key in mapping:
                text = _dump(content)
                marked = _dump(_replaced(content, (*path, key), "MARK"))
                double = marked.replace("MARK", f"1\n{_indent(marked)}{key}: 1", 1)
                if "MARK" in marked and double != text:
                    yield Case(f"{where}: {key} twice", double.encode())
        for key in ("datasets", "models", "attacks"):
            yield Case(f"{base}: no {key}", {k: v for k, v in content.items() if k != key})
        yield Case(f"{base}: in a list", [content])
        yield Case(f"{base}: in a mapping", {"grid": content})
        for axis in AXES:
            yield Case(f"{base}: {axis} as a mapping", content | {axis: {"x": content[axis]}})
            yield Case(f"{base}: {axis} nested", content | {axis: [content.get(axis, [])]})
            if content.get(axis):
                again = [*content[axis], copy.deepcopy(content[axis][0])]
                yield Case(f"{base}: {axis} twice", content | {axis: again})
        yield Case(f"{base}: a seed twice", content | {"seeds": [0, 0]})


def _texts() -> Iterator[Case]:
    """Files that are no plain YAML, or more of it than a config needs."""
    small = _dump(SMALL)
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)
    )
    files: dict[str, str | bytes] = {
        "empty": "",
        "a comment": "# nothing\n",
        "a number": "1\n",
        "text": "badnets\n",
        "null": "~\n",
        "two documents": f"{small}---\n{small}",
        "an open bracket": "attacks: [badnets",
        "an open quote": "attacks: 'badnets",
        "an unknown alias": f"{small}seeds: *none\n",
        "a tab": small.replace("- ", "\t- ", 1),
        "a zero byte": small.encode().replace(b"badnets", b"bad\0nets"),
        "an escaped zero byte": small + 'data: "a\\0b"\n',
        "an escaped line break": small + 'data: "a\\nb"\n',
        "half a surrogate pair": small + 'data: "\\ud800"\n',
        "a bell": small.encode().replace(b"badnets", b"bad\x07nets"),
        "UTF-16": small.encode("utf-16"),
        "UTF-16 without a mark": small.encode("utf-16-le"),
        "UTF-32": small.encode("utf-32"),
        "Latin-1": f"{small}data: dät\n".encode("latin-1"),
        "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "a zip file": b"PK\x03\x04\x14\0\0\0\x08\0",
        "zeros": bytes(1000),
        "a list that contains itself": small + "seeds: &a [*a]\n",
        "a mapping that contains itself": small + "recipe: &a {lr: *a}\n",
        "a billion laughs": laughs + small,
        "a billion laughs in seeds": laughs + small + "seeds: *a29\n",
        "a billion merges": merges + small + "recipe: *a39\n",
        "a million seeds": small + f"seeds: [{', '.join(map(str, range(10**6)))}]\n",
        "20,000 seeds": small + f"seeds: [{','.join(map(str, range(20_000)))}]\n",
        "a long comment": small + "#" * 2_000_000,
        "a long word": small + "data: " + "x" * 2_000_000,
        "many attacks": small.replace("- badnets", "- badnets\n" * 50_000),
        "a dangling merge": small + "recipe: {<<: 1}\n",
        "a key of 100,000 letters": small + "x" * 100_000 + ": 1\n",
        "a name of 100,000 letters": small.replace("badnets", "x" * 100_000),
        "a path of 10,000 letters": small.replace("badnets", "x" * 10_000 + ".py"),
        "a directive": "%YAML 9.9\n---\n" + small,
        "a mapping as a key": small + "? {a: 1}\n: 1\n",
        "a list as a key": small + "? [a]\n: 1\n",
    }
    for depth in (25, 100, 1000, 50_000):
        files[f"{depth} brackets"] = f"{small}seeds: {'[' * depth}{']' * depth}\n"
        files[f"{depth} open brackets"] = f"{small}seeds: {'[' * depth}"
        files[f"{depth} braces"] = f"{small}recipe: {'{a: ' * depth}1{'}' * depth}\n"
        files[f"{depth} dashes"] = f"{small}seeds: {'- ' * depth}1\n"
        files[f"{depth} dashes in a block"] = f"{small}seeds:\n  {'- ' * depth}1\n"
    for digits in (20, 400, 5000, 100_000):
        for key in ("seeds: [{}]", "score_every: {}", "clean_ratio: {}", "recipe: {{lr: {}}}"):
            files[f"{digits} digits, {key}"] = small + key.format("9" * digits) + "\n"
    for number in ("010", "0o10", "1:30", "190:20:30.15", "1e400", "-1e400", "0x", "1_", "1__0.5"):
        for key in ("seeds: [{}]", "clean_ratio: {}", "recipe: {{epochs: {}}}"):
            files[f"{number}, {key}"] = small + key.format(number) + "\n"
    tags = (
        *(
            "!!python/object:os.system",
            "!!python/object/apply:os.system",
            "!!python/name:os.system",
        ),
        *("!!python/tuple", "!!binary", "!!timestamp", "!!set", "!!omap", "!!pairs", "!!int"),
        *("!!float", "!!bool", "!!null", "!!str", "!!seq", "!!map", "!mine", "!<tag:x,2000:y>"),
    )
    for tag in tags:
        for value in ("1", "''", "abc", "[]", "[1]", "{}", "{a: 1}"):
            for key in ("seeds", "recipe", "data"):
                files[f"{key}: {tag} {value}"] = f"{small}{key}: {tag} {value}\n"
    # Tags that change nothing.
    for plain in ("seeds: !!seq [1]", "recipe: !!map {}", "data: !!str abc"):
        files.pop(plain, None)
    for name, content in files.items():
        yield Case(f"text: {name}", content if isinstance(content, bytes) else content.encode())


def _grids() -> Iterator[Case]:
    """Values that are fine alone, in grids that cannot finish or make no sense."""

    def attack(**values: Any) -> dict[str, Any]:
        return SMALL | {"attacks": [values]}

    def defense(**values: Any) -> dict[str, Any]:
        return SMALL | {"defenses": [values]}

    def multi(first: float, second: float, name: str = "blended") -> dict[str, Any]:
        parts = {"first": {name: {"ratio": first}}, "second": {"badnets": {"ratio": second}}}
        parts["second"]["badnets"]["target"] = 1
        return attack(multi=parts)

    grids = {
        "no clean image": SMALL | {"clean_ratio": 0.0006},
        "no clean image of 50,000": SMALL | {"datasets": ["cifar10"], "clean_ratio": 1e-5},
        "no clean image of 200": SMALL | {"datasets": ["tiny_imagenet:1"], "clean_ratio": 0.004},
        "no poisoned image": attack(badnets={"ratio": 0.0003}),
        "no poisoned image with clean labels": attack(sig={"ratio": 1e-9}),
        "no poisoned image in a batch": attack(wanet={"ratio": 1e-6}),
        "no poisoned image of the second": multi(0.1, 0.0001),
        "no poisoned image of the first": multi(0.0001, 0.1),
        "more than all images": multi(0.6, 0.5),
        "more than all images, WaNet": multi(0.6, 0.5, "wanet"),
        "one image more than all": multi(0.5 + 1e-5, 0.5)
        | {"datasets": [{"tiny_imagenet": {"per_class": 500}}, "digits"]},
        "more crossed images than there are": attack(input_aware={"ratio": 0.6}),
        "a target that is no class": attack(badnets={"target": 10}),
        "another loss for two attacks": attack(adversarial={"attack": "multi"}),
        "another loss for another loss": attack(adversarial={"attack": "sau_aware"}),
        "no epoch of the attack inside": attack(sau_aware={"attack": "input_aware"})
        | {"recipe": {"epochs": 25}},
        "small images for VGG19": SMALL | {"datasets": ["mnist"], "models": ["vgg19:4"]},
        "grey images for SSBA": SMALL | {"datasets": ["mnist"], "attacks": ["ssba"]},
        "a probe twice": SMALL | {"probes": ["risk", "risk"]},
        "an unknown probe": SMALL | {"probes": ["risks"]},
        "kept twice": SMALL | {"keep": ["defended", "defended"]},
        "unlearning with frozen statistics": defense(rnp={"unlearning": {"batch_norm": "frozen"}}),
        "a target that is no class of one": SMALL
        | {"datasets": ["gtsrb", "digits"], "attacks": [{"lf": {"target": 20}}]},
        "a second target that is no class": attack(multi={"second": {"badnets": {"target": 10}}}),
        "the same target twice": attack(multi={"second": {"badnets": {"target": 0}}}),
        "two attacks in two": attack(multi={"first": "multi"}),
        "a second attack that trains": attack(multi={"second": "wanet"}),
        "clean labels to all": attack(sig={"labels": "all2all"}),
        "no epoch for the classifier": attack(input_aware={}) | {"recipe": {"epochs": 25}},
        "no epoch in its recipe": attack(input_aware={"recipe": {"epochs": 3}}),
        "no epoch as a first part": attack(multi={"first": "input_aware"})
        | {"recipe": {"epochs": 5}},
        "two recipes": SMALL | {"attacks": ["lf", {"lf": {"recipe": {"lr": 1}}}]},
        "a default written out": SMALL | {"attacks": ["badnets", {"badnets": {"ratio": 0.1}}]},
        "a dataset twice": SMALL | {"datasets": ["tiny_imagenet", "tiny_imagenet:500"]},
        "a model twice": SMALL | {"models": ["small_cnn", "small_cnn:16"]},
        "a width twice": SMALL | {"models": [{"small_cnn:8": {"width": 4}}]},
        "no width": SMALL | {"models": ["small_cnn:"]},
        "a width that is text": SMALL | {"models": ["small_cnn:wide"]},
        "a width of many channels": SMALL | {"models": ["small_cnn:1000000"]},
        "an argument too many": SMALL | {"attacks": ["badnets:1"]},
        "no such timm model": SMALL | {"models": ["timm:resnet10tt"]},
        "too many cells": SMALL | {"seeds": list(range(5000)), "defenses": ["ft", "ep", "sau"] * 7},
        "a clean ratio above 1": SMALL | {"clean_ratio": 1.01},
        "an accuracy of 1": SMALL | {"effective_acc": 1},
        "a rule of no defense": SMALL | {"select": {"SAU": "last"}},
        "a rule without a name": SMALL | {"select": {"": "last"}},
        "thresholds without the rule's": defense(anp={"thresholds": [0.1, 0.2]}),
        "a threshold twice": defense(anp={"thresholds": [0.4, 0.4]}),
        "a threshold above 1": defense(anp={"thresholds": [0.4, 1.1]}),
        "betas of three numbers": defense(nc={"betas": [0.5, 0.9, 0.9]}),
        "a beta of 1": defense(nc={"betas": [0.5, 1.0]}),
        "betas below 0": defense(nad={"betas": [1.0, -1.0]}),
        "fewer stages than betas": defense(nad={"stages": ["stage3"]}),
        "a stage twice": defense(nad={"stages": ["stage3", "stage3"]}),
        "SAU with augmentation": defense(sau={"recipe": {"augment": True}}),
        "AT with batch norm": defense(at={"recipe": {"batch_norm": "train"}}),
        "a picture that is no file": attack(blended={"image": "FOLDER/no.png"}),
        "a picture that is a folder": attack(blended={"image": "FOLDER"}),
        "a picture that is none": attack(blended={"image": "FOLDER/grid.yaml"}),
        "a plugin that is no file": SMALL | {"attacks": ["FOLDER/no.py"]},
        "a plugin without a name": SMALL | {"attacks": [".py"]},
        "a bin without width": defense(ep={"h": 1e-30}),
        "a grid of many points": attack(wanet={"k": 10**6}),
    }

    def when(**values: Any) -> dict[str, Any]:
        return SMALL | {"when": [values]}

    grids |= {
        "a sweep of one": defense(ep={"u": [1.0]}),
        "a sweep of the same": defense(ep={"u": [1.0, 1.0]}),
        "a sweep with a default": SMALL | {"defenses": ["ep", {"ep": {"u": [1.0, 3.0]}}]},
        "a sweep of sweeps": defense(ep={"u": [[1.0, 2.0], 3.0]}),
        "a sweep of a million": defense(sau={f"lambda_{i}": list(range(32)) for i in range(1, 5)}),
        "a sweep of the victims' recipe": attack(badnets={"recipe": {"lr": [0.1, 0.2]}}),
        "a sweep of the config's recipe": SMALL | {"recipe": {"lr": [0.1, 0.2]}},
        "a sweep inside of an attack": attack(multi={"first": {"lf": {"ratio": [0.1, 0.2]}}}),
        "a sweep of an unknown field": defense(ep={"v": [1.0, 2.0]}),
        "a sweep of seeds": SMALL | {"seeds": [[0, 1]]},
        "a sweep in when": when(defenses={"ft": {"recipe": {"epochs": [1, 2]}}}),
        "a clean ratio twice": SMALL | {"clean_ratio": [0.1, 0.1]},
        "a clean ratio of no image": SMALL | {"clean_ratio": [0.1, 0.0006]},
        "an unknown dataset": when(dataset="digit"),
        "an unknown model": when(model=["small_cnn", "small_cn"]),
        "a model with a width": when(model="small_cnn:8"),
        "an unknown attack": when(attacks={"badnet": {}}),
        "a defense among attacks": when(attacks={"ft": {}}),
        "an unknown field of a plugin nobody uses": when(defenses={"sau": {"lambda_5": 1.0}}),
        "a bad value of a plugin nobody uses": when(defenses={"sau": {"eps": 0}}),
        "a bad recipe on no dataset": when(dataset="gtsrb", recipe={"epochs": 0}),
        "a bad recipe of an attack": when(attacks={"lf": {"recipe": {"epoch": 1}}}),
        "a bad value here": when(dataset="digits", attacks={"badnets": {"target": 10}}),
        "no image here": when(dataset="digits", attacks={"badnets": {"ratio": 1e-4}}),
        "no threshold of the rule here": defense(anp={})
        | {"when": [{"dataset": "digits", "defenses": {"anp": {"thresholds": [0.1]}}}]},
        "two defenses that are one here": SMALL
        | {"defenses": ["ep", {"ep": {"u": 4.0}}], "when": [{"defenses": {"ep": {"u": 4.0}}}]},
        "two attacks that are one here": SMALL
        | {
            "attacks": ["lf", {"lf": {"passes": 4}}],
            "when": [{"model": "small_cnn", "attacks": {"lf": {"passes": 4}}}],
        },
        "seeds in when": when(seeds=[1]),
        "datasets in when": when(datasets=["digits"]),
        "when as a mapping": SMALL | {"when": {"dataset": "digits"}},
    }
    for rule in (
        "own",
        "oracle",
        "fixed:0.4",
        "best",
        "fixed:",
        "fixed:x",
        "LAST",
        " last",
        "last,",
    ):
        grids[f"rule {rule!r} of rounds"] = SMALL | {"select": {"FT": rule}}
    for rule in (
        "fixed:0.33",
        "fixed:-1",
        "fixed:2",
        "fixed:0.41",
        "fixed:nan",
        "fixed:inf",
        "0.4",
    ):
        grids[f"rule {rule!r} of candidates"] = defense(anp={}) | {"select": {"ANP": rule}}
    for name, content in grids.items():
        yield Case(f"grid: {name}", content)


def _files() -> Iterator[Case]:
    """Configs that name other files, which are wrong, missing, too many, or name them in turn."""
    small, shared = _dump(SMALL), "recipe: {lr: 0.1}\n"
    chain = {f"{i}.yaml": f"KEY: {i + 1}.yaml\n" for i in range(30)} | {"30.yaml": shared}
    wrong: dict[str, Any] = {
        **{f"value {number}": value for number, value in enumerate(VALUES)},
        "a file that is not there": "none.yaml",
        "a folder": ".",
        "itself": "grid.yaml",
        "itself by another path": "../FOLDER/./grid.yaml",
        "a file that names it": "back.yaml",
        "a circle of others": "one.yaml",
        "no YAML": "open.yaml",
        "no mapping": "list.yaml",
        "no text": "binary.yaml",
        "an unknown key": "unknown.yaml",
        "a bad value": "bad.yaml",
        "a long chain": "0.yaml",
        "the name of a long file": "x" * 5000,
    }
    for key in ("include", "defaults"):

        def named(name: str, key: str = key) -> str:
            return f"{key}: {[name] if key == 'include' else name}\n"

        files = {
            "back.yaml": named("grid.yaml"),
            "one.yaml": named("two.yaml"),
            "two.yaml": named("one.yaml"),
            "open.yaml": "datasets: [digits",
            "list.yaml": "- digits\n",
            "binary.yaml": "\0\1",
            "unknown.yaml": small + "attack: [lf]\n",
            "bad.yaml": small.replace("digits", "digit") + "clean_ratio: 0\n",
            **{name: named(f"{int(name[:-5]) + 1}.yaml") for name in chain if name != "30.yaml"},
            "30.yaml": small if key == "include" else shared,
        }
        for what, value in wrong.items():
            whole = [value] if key == "include" and isinstance(value, str) else value
            for content in (SMALL, {}):
                with_axes = "with axes" if content else "alone"
                name = f"files: {key} {with_axes}: {what}"
                yield Case(name, {**content, key: whole}, files)
            if key == "include":
                yield Case(f"files: include, an entry: {what}", {key: [[whole]]}, files)
    other = {"a.yaml": small, "b.yaml": small + "data: elsewhere\n", "shared.yaml": shared}
    other |= {"mine/a.yaml": small, "union.yaml": "include: [a.yaml]\n"}
    for what, content in {
        "include twice": {"include": ["a.yaml", "a.yaml"]},
        "include no table": {"include": ["shared.yaml"]},
        "include no table beside one": {"include": ["a.yaml", "shared.yaml"]},
        "include and a recipe": {"include": ["a.yaml"], "recipe": {"lr": 0.1}},
        "include and some axes": {"include": ["a.yaml"], "datasets": ["digits"]},
        "datasets in two folders": {"include": ["a.yaml", "b.yaml"]},
        "defaults that include": SMALL | {"defaults": "union.yaml"},
        "defaults alone": {"defaults": "shared.yaml"},
        "several defaults": SMALL | {"defaults": ["shared.yaml"]},
    }.items():
        yield Case(f"files: {what}", content, other)


HEAD = """
from dataclasses import dataclass, field
import sys
from pathlib import Path
from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.data import Dataset
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Architecture
"""
PLUGIN = """
@dataclass(frozen=True, kw_only=True)
class Mine(Defense):
    name = "Mine"
    strength: float = 0.5
    {body}

    def __call__(self, model, data):
        yield model
"""


def _plugins() -> Iterator[Case]:
    """Plugin files that end the process, raise, or are no plugin."""
    raised = (
        *("ValueError()", "ValueError('a\\nb')", "TypeError(1)", "KeyError('x')", "RuntimeError()"),
        *(
            "ZeroDivisionError",
            "AssertionError",
            "RecursionError",
            "MemoryError",
            "OSError(28, 'x')",
        ),
        *("StopIteration", "NotImplementedError", "SystemExit(0)", "SystemExit('x')", "SystemExit"),
        *(
            "GeneratorExit",
            "BaseException('x')",
            "Exception('x' * 10**6)",
            "UnicodeError('\\udc80')",
        ),
        *("ImportError", "SyntaxError('x')", "Warning", "ExceptionGroup('x', [ValueError()])"),
    )
    sources = {}
    for error in raised:
        check = f"def __post_init__(self):\n        raise {error}"
        sources[f"__post_init__ raises {error}"] = PLUGIN.format(body=check)
        sources[f"its import raises {error}"] = f"raise {error}\n" + PLUGIN.format(body="")
        label = f"@property\n    def label(self):\n        raise {error}"
        sources[f"its label raises {error}"] = PLUGIN.format(body=label)
        key = f"def canonical(self):\n        raise {error}"
        sources[f"its key raises {error}"] = PLUGIN.format(body=key)
    bodies = {
        "a field without a default": "size: int",
        "an unhashable field": "sizes: list[int] = field(default_factory=list)",
        "a field that no key can hold": "file: Path = Path('x')",
        "a field of a type that nobody knows": "model: Unknown = None",
        "a field of a type that nobody can check": "model: type(sys) = sys",
        "a label of two lines": "label = 'a\\nb'",
        "a label that is no text": "label = 1",
        "an empty label": "label = ''",
        "the label of a model without a defense": "label = 'No Defense'",
        "a rule that does not exist": "select = 'best'",
        "a rule that is no text": "select = 1",
        "a rule for candidates": "select = 'oracle'",
        "a field that keys use": "source: str = ''",
        "settings without the rule's": "yields = 'candidates'\n    select = 'fixed:0.4'\n"
        "    settings = (0.1, 0.2)",
    }
    sources |= {name: PLUGIN.format(body=body) for name, body in bodies.items()}
    sources |= {
        "sys.exit(0)": "sys.exit(0)\n",
        "sys.exit() in a function": "def f():\n    sys.exit()\n\nf()\n",
        "exit('text')": "exit('text')\n",
        "nothing": "",
        "no Python": "attacks: [badnets]\n",
        "a null byte": "x = '\0'\n",
        "an import of nothing": "import no_such_module\n",
        "an endless recursion": "def f():\n    f()\n\nf()\n",
        "two plugins": PLUGIN.format(body="") + PLUGIN.format(body="").replace("Mine", "Other"),
        "no name": PLUGIN.format(body="").replace('name = "Mine"', "pass"),
        "a name that is no text": PLUGIN.format(body="").replace('"Mine"', "1"),
        "no __call__": PLUGIN.format(body="").replace("__call__", "call"),
        "no dataclass": PLUGIN.format(body="").replace("@dataclass", "#"),
        "a class that changes": PLUGIN.format(body="").replace("frozen=True, ", ""),
        "no kind": PLUGIN.format(body="").replace("(Defense)", ""),
        "an attack": PLUGIN.format(body="").replace("Defense", "DataPoisoning"),
        "a model": PLUGIN.format(body="").replace("Defense", "Architecture"),
        "a dataset": PLUGIN.format(body="").replace("(Defense)", "(Dataset)"),
    }
    mine: Any = "FOLDER/mine.py"
    for name, source in sources.items():
        spec = {mine: {"strength": 0.25, **({"size": "x"} if "without a default" in name else {})}}
        if "nobody can check" in name:
            spec = {mine: {"model": 1}}
        content = SMALL | {"defenses": [spec]}
        yield Case(f"plugin: {name}", content, {"mine.py": HEAD + source})
    good = {"mine.py": HEAD + PLUGIN.format(body="count: int = 1\n    on: bool = True")}
    for number, value in enumerate(VALUES):
        for name in ("strength", "count", "on"):
            if not (name == "on" and value is True) and value not in (-1, 0, 10**30, 10**400):
                content = SMALL | {"defenses": [{mine: {name: value}}]}
                yield Case(f"plugin: {name} = value {number}", content, good)
    for axis in ("datasets", "models", "attacks"):
        yield Case(f"plugin: a defense among {axis}", SMALL | {axis: [mine]}, good)
    yield Case("plugin: a folder", SMALL | {"defenses": [mine]}, {"mine.py/x.txt": ""})
    yield Case("plugin: a defense twice", SMALL | {"defenses": [mine, mine]}, good)
    again = SMALL | {"defenses": [mine, "FOLDER/../FOLDER/mine.py"]}
    yield Case("plugin: one file by two paths", again, good)
    other = {"other.py": good["mine.py"]}
    both = SMALL | {"defenses": [mine, "FOLDER/other.py"]}
    yield Case("plugin: two files with one label", both, good | other)


def _dump(content: Any) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(content, Dumper=Dumper, sort_keys=False, width=10**6)


def _indent(text: str) -> str:
    """The columns before the key whose value is MARK."""
    line = next(line for line in text.split("\n") if "MARK" in line)
    return " " * (len(line) - len(line.lstrip(" -")))


def _paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in entries:
            yield from _paths(value, (*path, key))


def _at(content: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        content = content[part]
    return content


def _replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at the path; the rest is shared."""
    changed = copy.copy(content)
    rest = path[1:]
    changed[path[0]] = _replaced(content[path[0]], rest, value) if rest else value
    return changed
