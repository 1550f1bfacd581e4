"""Grids as their YAML files say them. Does not import torch, so that reports start fast."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from sau_bench.benchmark.errors import EPOCHS, InputError, check_range, listed, nearest, shown
from sau_bench.benchmark.grid.document import read_document
from sau_bench.benchmark.plugin import construct

CLEAN_RATIO = 0.05
"""The defender's share of the clean training set where a config does not say it."""
INCLUDE, DEFAULTS = "include", "defaults"
"""The keys of a file that name other files."""
FILES = 20
"""The most files of a chain in which each names the next."""


@dataclass(frozen=True, kw_only=True)
class When:
    """What holds on some datasets or architectures only.

    dataset, model: names of plugins, one or a list; any where absent. recipe: fields of the
    victims' recipe. attacks: fields of plugins, by their names; those that a config writes at the
    plugin itself count more. An attack may have a `recipe`. defenses: the same, without a recipe of
    victims.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dataset: str | list[str] | None = None
    model: str | list[str] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    defenses: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("dataset", "model"):
            if getattr(self, name) == []:
                raise ValueError(f"{name} is empty, accepted: at least one name")

    def names(self, condition: str) -> list[str] | None:
        """The names of "dataset" or "model" as a list; None stands for any."""
        names = getattr(self, condition)
        return [names] if isinstance(names, str) else names


@dataclass(frozen=True, kw_only=True)
class Config:
    """One table: every attack x defense x dataset x model x seed of its lists.

    datasets: plugins, each a name, `name:VALUE`, `{name: {field: value}}`, or the path of a Python
    file in place of the name; a list of values, where the field takes one, stands for as many
    plugins. models: the same. attacks: the same; a `recipe` among the fields of an attack is of the
    training of its victims. defenses: the same.
    seeds: of everything drawn in a cell, 0 to 2^32 - 1; each seed has a victim of its own.
    recipe: how victims are trained, fields of `benchmark.train.Recipe`. when: what differs on some
    datasets or architectures; entries that hold there count more than `recipe`, and later ones more
    than earlier ones. clean_ratio: the defender's share of the clean training set, in (0, 1], or a
    list of shares; a defense without clean data runs once. score_every: rounds between two points
    of a learning curve, 1 to 100,000, or "doubling": points after rounds 1, 2, 4, 8 and so on; the
    last round always is one. probes: what is measured with
    each score beside it: "risk", see `benchmark.rows.PROBES`; jobs with probes are others than
    those without. keep: "defended" keeps the weights of defended models in the cache, of the last
    round or of all candidates, for `benchmark.cli.cells`; these jobs are others, too.
    select: selection rules instead of those of the plugins, each by the label of a defense or by
    the name of its plugin. data: folder of the datasets, where neither the command line nor the
    environment names one. clean_model: train a model on clean data as well, by `recipe`; its ACC is
    printed under those of the victims. effective_acc: the ACC, in (0, 1), above which a defense
    counts as effective in the table of times to effect (the paper: 0.85 on CIFAR-10, 0.45 on Tiny
    ImageNet); nine tenths of that of the victim when absent. average_collapsed: averages over
    attacks include victims that are marked as collapsed, as those of the paper do (WaNet at 1 %:
    ASR 12.6 %). deterministic: whether GPUs have to use kernels that give the same bits each time;
    without it they are faster, and a run repeats its rows but for rounding; like the GPU itself it
    is recorded in the rows and is in no key.
    """

    datasets: list[Any]
    models: list[Any]
    attacks: list[Any]
    defenses: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    recipe: dict[str, Any] = field(default_factory=dict)
    when: list[When] = field(default_factory=list)
    clean_ratio: float | list[float] = CLEAN_RATIO
    score_every: int | Literal["doubling"] = 1
    probes: list[Literal["risk"]] = field(default_factory=list)
    keep: list[Literal["defended"]] = field(default_factory=list)
    select: dict[str, str] = field(default_factory=dict)
    data: str = "data"
    clean_model: bool = False
    effective_acc: float | None = None
    average_collapsed: bool = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("datasets", "models", "attacks", "seeds", "clean_ratio"):
            if getattr(self, name) in ([], ()):
                raise ValueError(f"{name} is empty, accepted: at least one entry")
        check_range(self, "clean_ratio", above=0, most=1)
        if self.score_every != "doubling":
            check_range(self, "score_every", least=1, most=EPOCHS)
        check_range(self, "effective_acc", above=0, below=1)
        check_range(self, "seeds", least=0, below=2**32)
        for name in ("probes", "keep"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, accepted: each one once")
        if not self.data:
            raise ValueError("data is empty, accepted: the path of a folder")

    @property
    def clean_ratios(self) -> list[float]:
        """The entries of `clean_ratio`."""
        return self.clean_ratio if isinstance(self.clean_ratio, list) else [self.clean_ratio]


def read(path: Path) -> Config:
    """The one table of a YAML file.

    Raises:
        InputError: as of `read_tables`; and there is no table, or there are several.
    """
    tables = read_tables(path)
    if len(tables) != 1:
        raise InputError(f"{path} has {len(tables)} tables, accepted: one")
    return next(iter(tables.values()))


def read_tables(path: Path) -> dict[Path, Config]:
    """The tables of a YAML file by the file of each: those of all that it includes, then its own.

    `include: [file, ...]` joins the tables of other files to those of this one; a file that is
    reached twice counts once. `defaults: file` takes over every key of another file that this one
    does not set; `recipe` and `select` are merged, and entries of `when` stand before those here.
    Paths are relative to the file that names them. A file without `datasets` and `models` has no
    table of its own: it includes others, or is there for `defaults`.

    Raises:
        InputError: no such file, not YAML, an unknown key, an impossible value, or files that name
            each other in a circle.
    """
    reader = _Reader()
    reader.has_tables(path, ())
    return reader.tables


def files_of(path: Path) -> list[Path]:
    """The file of a table, and those whose keys it takes over. path: of `read_tables`."""
    content = _document(path)
    return [path, *(files_of(path.parent / content[DEFAULTS]) if DEFAULTS in content else [])]


class _Reader:
    """Collects the tables of a file and of those that it includes.

    tables: found so far, by file.
    """

    def __init__(self) -> None:
        self.tables: dict[Path, Config] = {}
        self._answers: dict[Path, bool] = {}

    def has_tables(self, path: Path, users: tuple[Path, ...]) -> bool:
        """Collect the tables of a file; whether there are any.

        users: the files by which this one was reached.
        """
        content = _document(path)
        chain, where = _chain(path, users), path.resolve()
        if where not in self._answers:
            content = _complete(path, content, chain)
            self._answers[where] = self._collect(path, content, chain)
        return self._answers[where]

    def _collect(self, path: Path, content: dict[str, Any], chain: tuple[Path, ...]) -> bool:
        if INCLUDE in content:
            for name in _names(path, content.pop(INCLUDE)):
                if not self.has_tables(path.parent / name, chain):
                    raise InputError(f"{path}: {INCLUDE}: {shown(name)} has no table")
            if not content:
                return True
        elif not {"datasets", "models"} & content.keys():
            return False
        self.tables[path] = construct(Config, content, str(path))
        return True


def _names(path: Path, included: Any) -> list[str]:
    if not isinstance(included, list) or not included:
        raise InputError(f"{path}: {INCLUDE} is {shown(included)}, accepted: a list of files")
    for number, name in enumerate(included):
        if not isinstance(name, str) or not name or name in included[:number]:
            raise InputError(f"{path}: {INCLUDE} has {shown(name)}, accepted: files, each one once")
    return included


def _complete(path: Path, content: dict[str, Any], chain: tuple[Path, ...]) -> dict[str, Any]:
    """The content over that of the file that it names as its defaults.

    chain: the files by which this one was reached, and itself.
    """
    if DEFAULTS not in content:
        return content
    name = content[DEFAULTS]
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: {DEFAULTS} is {shown(name)}, accepted: the path of one file")
    file = path.parent / name
    base = _complete(file, _document(file), _chain(file, chain))
    if INCLUDE in base:
        raise InputError(f"{path}: {DEFAULTS}: {file} includes others, accepted: one that does not")
    merged = base | {key: value for key, value in content.items() if key != DEFAULTS}
    for key in ("recipe", "select", "when"):
        ours, theirs = content.get(key), base.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            merged[key] = theirs | ours
        elif isinstance(ours, list) and isinstance(theirs, list):
            merged[key] = theirs + ours
    return merged


def _document(path: Path) -> dict[str, Any]:
    """The keys of a file, all of them known."""
    content = read_document(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys such as 'attacks:', got {shown(content)}")
    accepted = [*(f.name for f in fields(Config)), INCLUDE, DEFAULTS]
    for key in content:
        if key not in accepted:
            raise InputError(
                f"{path}: unknown key {shown(key)}; accepted: {listed(accepted)}"
                f"{nearest(str(key), accepted)}"
            )
    return content


def _chain(path: Path, users: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files by which this one was reached, and itself.

    Raises:
        InputError: it is one of them, or they are too many.
    """
    chain = (*users, path)
    if path.resolve() in [user.resolve() for user in users]:
        names = " -> ".join(str(file) for file in chain)
        raise InputError(f"{path} names itself: {names if len(names) < 300 else '...'}")
    if len(chain) > FILES:
        raise InputError(f"{path} is the end of a chain of more than {FILES} files")
    return chain
