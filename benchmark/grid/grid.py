"""From a config to its jobs, and from finished jobs to labelled rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from attacks.asset import CleanModel
from attacks.base import Attack
from benchmark.data import Dataset
from benchmark.errors import InputError, listed, nearest, one_line, shown
from benchmark.grid.config import Config
from benchmark.grid.labels import filtered, filters_of, labels_of
from benchmark.grid.outcomes import Failures, Results, rows_of
from benchmark.grid.plan import with_needs
from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from benchmark.loading import build
from benchmark.plugin import Plugin, construct, plugin_name
from benchmark.rows import (
    AXES,
    COLUMNS,
    EXTRA_COLUMNS,
    MIN_ASR,
    MIN_CHANCES,
    UNDEFENDED,
    Row,
    check_rule,
)
from benchmark.train import Recipe
from defenses.base import Defense
from models.classifier import Architecture

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Grid:
    """The cells of a config with built plugins and the labels that tell them apart."""

    victims: tuple[AttackJob, ...]
    defenses: tuple[Defense, ...]
    labels: dict[Plugin, str]
    clean_ratio: float
    score_every: int
    probes: tuple[str, ...] = ()
    keep: bool = False
    references: tuple[AssetJob, ...] = ()
    """Models trained on clean data, to compare the victims' ACC with."""

    def cells(self) -> Sequence[tuple[AttackJob, DefenseJob | None]]:
        """Each victim undefended (None), then under each defense."""
        return self._cells

    @cached_property
    def _cells(self) -> Sequence[tuple[AttackJob, DefenseJob | None]]:
        # Made once, since each job hashes its key once.
        return tuple(self._make_cells())

    def _make_cells(self) -> Iterator[tuple[AttackJob, DefenseJob | None]]:
        for victim in self.victims:
            yield victim, None
            for defense in self.defenses:
                yield (
                    victim,
                    DefenseJob(
                        victim=victim,
                        defense=defense,
                        clean_ratio=self.clean_ratio,
                        score_every=self.score_every,
                        probes=self.probes,
                        keep=self.keep,
                    ),
                )

    def jobs(self) -> list[Job]:
        """Every job once, what it needs before it."""
        cells = [defended or victim for victim, defended in self.cells()]
        return with_needs([*cells, *self.references])

    def place(self, victim: AttackJob, defended: DefenseJob | None) -> dict[str, Any]:
        """Labels of a cell along each axis of the grid."""
        return {
            "dataset": self.labels[victim.dataset],
            "model": self.labels[victim.architecture],
            "attack": self.labels[victim.attack],
            "defense": self.labels[defended.defense] if defended else UNDEFENDED,
            "seed": victim.seed,
        }

    def rows(self, results: Results, failures: Failures | None = None) -> pd.DataFrame:
        """Labelled rows of the cells, in the grid's order.

        A job that is not finished has no row, or, where `failures` says why jobs failed, one row
        without scores. Rows that no table can use cost their cell and nothing else: one row takes
        their place, too. See `benchmark.rows.NO_RESULT`.
        """
        import pandas as pd

        rows: list[Row] = []
        for victim, defended in self.cells():
            job = defended or victim
            labels = self.place(victim, defended) | {"key": job.key, "victim": victim.key}
            table = labels | _of_the_table(defended)
            kind = defended.defense.yields if defended else "victim"
            measured = rows_of(job, kind, results, failures)
            rows.extend(_judged(victim, row) | table for row in measured)
        for clean in self.references:
            place = {
                "dataset": self.labels[clean.dataset],
                "model": self.labels[clean.architecture],
                "seed": clean.seed,
                "key": clean.key,
            }
            rows.extend(row | place for row in rows_of(clean, "clean", results, failures))
        frame = pd.DataFrame(rows)
        frame = frame.reindex(columns=[*COLUMNS, *(c for c in EXTRA_COLUMNS if c in frame)])
        # Counts stay whole numbers beside rows that have none.
        return frame.astype(dict.fromkeys(("n_clean", "n_poisoned"), "Int64"))


def make_grid(config: Config, only: Sequence[str] = (), flag: str = "--only") -> Grid:
    """Build every plugin of a config; `only` keeps cells, see `benchmark.grid.labels.filters_of`.

    flag: what errors call `only`.

    Raises:
        InputError: a plugin, field or value that does not exist, an entry that is there twice, a
            class that no dataset has, or a cell that cannot be finished.
    """
    recipes = _recipes(config)
    parts: dict[str, list[Any]] = {
        "dataset": [build("datasets", spec) for spec in config.datasets],
        "model": [build("models", spec) for spec in config.models],
        "attack": list(recipes),
        "defense": [build("defenses", spec) for spec in config.defenses],
        "seed": list(config.seeds),
    }
    for axis, entries in parts.items():
        _check_once(axis, entries)
    labels: dict[Plugin, str] = {}
    for axis in AXES[:-1]:
        labels |= labels_of(axis, parts[axis])
    _check_rules(config.select, {labels[defense]: defense for defense in parts["defense"]})
    filters = filters_of(only, flag)
    for axis, names in filters.items():
        parts[axis] = filtered(axis, parts[axis], names, labels, flag)
    for dataset, attack in product(parts["dataset"], parts["attack"]):
        _check_attack(dataset, attack, recipes[attack])
    if any(defense.uses == "clean" for defense in parts["defense"]):
        for dataset in parts["dataset"]:
            _check_clean(dataset, config.clean_ratio)
    for dataset, model in product(parts["dataset"], parts["model"]):
        _check_model(dataset, model)
    for dataset, model, defense in product(parts["dataset"], parts["model"], parts["defense"]):
        _check_defense(dataset, model, defense)
    victims = tuple(
        AttackJob(
            dataset=dataset,
            architecture=model,
            attack=attack,
            recipe=recipes[attack],
            seed=seed,
        )
        for dataset, model, attack, seed in product(
            parts["dataset"], parts["model"], parts["attack"], parts["seed"]
        )
    )
    references = tuple(
        AssetJob(
            dataset=dataset,
            architecture=model,
            asset=CleanModel(),
            recipe=construct(Recipe, config.recipe, "recipe"),
            seed=seed,
        )
        for dataset, model, seed in product(parts["dataset"], parts["model"], parts["seed"])
        if config.clean_model and not filters.keys() & {"attack", "defense"}
    )
    defenses = tuple(parts["defense"])
    return Grid(
        victims,
        defenses,
        labels,
        config.clean_ratio,
        config.score_every,
        tuple(config.probes),
        "defended" in config.keep,
        references,
    )


def _recipes(config: Config) -> dict[Attack, Recipe]:
    """The attacks with the recipe of each: that of the config, under the fields of its `recipe`."""
    recipes: dict[Attack, Recipe] = {}
    for spec in config.attacks:
        changes: Mapping[str, Any] = {}
        if isinstance(spec, Mapping) and len(spec) == 1:
            ((name, values),) = spec.items()
            if isinstance(values, Mapping) and isinstance(values.get("recipe"), Mapping):
                changes = values["recipe"]
                spec = {name: {k: v for k, v in values.items() if k != "recipe"}}
        attack: Any = build("attacks", spec)
        what = f"attack {plugin_name(attack)!r}: recipe" if changes else "recipe"
        recipe = construct(Recipe, {**config.recipe, **changes}, what)
        if attack in recipes and recipes[attack] == recipe:
            raise InputError(_twice("attack", attack))
        if recipes.setdefault(attack, recipe) != recipe:
            raise InputError(f"two recipes for the attack {plugin_name(attack)!r}; accepted: one")
    return recipes


def _judged(victim: AttackJob, row: Row) -> Row:
    """The row; a victim that learned too little of its task or its backdoor is marked as collapsed.

    Collapsed: its ACC is below 2 / K, K the number of classes, or the ASR of one of its triggers is
    below 50 % (`benchmark.rows.MIN_CHANCES`, `MIN_ASR`).
    """
    if row["kind"] != "victim" or row["status"] != "ok":
        return row
    task_lost = row["acc"] < MIN_CHANCES / victim.dataset.num_classes
    weakest = min(row[name] for name in ("asr", "asr_1", "asr_2") if row.get(name) is not None)
    return row | ({"status": "collapsed"} if task_lost or weakest < MIN_ASR else {})


def _of_the_table(defended: DefenseJob | None) -> Row:
    """The columns of a cell that are no measurement: what the defense gets, how it is chosen."""
    if defended is None:
        return {"clean_ratio": None}
    defense = defended.defense
    budget = defended.clean_ratio if defense.uses == "clean" else None
    return {"clean_ratio": budget, "uses": defense.uses, "select": defense.select}


def _twice(axis: str, entry: Any) -> str:
    name = entry.label if isinstance(entry, Plugin) else entry
    return f"{axis}s: {shown(name, 200)} is there twice with the same values; accepted: once"


def _check_once(axis: str, entries: Sequence[Any]) -> None:
    seen = set()
    for entry in entries:
        if entry in seen:
            raise InputError(_twice(axis, entry))
        seen.add(entry)


def _check_rules(rules: Mapping[str, str], defenses: Mapping[str, Defense]) -> None:
    """Selection rules are applied after training, but a wrong one should be known before.

    defenses: by label.
    """
    for label in rules:
        if label not in defenses:
            raise InputError(
                f"select: no defense {shown(label)} in this grid; accepted: {listed(defenses)}"
                f"{nearest(label, defenses)}"
            )
    for label, defense in defenses.items():
        try:
            _check_rule(rules.get(label, defense.select), label, defense)
        except ValueError as error:
            raise InputError(f"select: {one_line(error)[:400]}") from None


def _check_rule(rule: str, label: str, defense: Defense) -> None:
    """Refuse a rule that finds no row among those of the defense.

    Raises:
        ValueError: says what the defense has.
    """
    if not isinstance(rule, str) or len(rule) > 80:
        raise ValueError(f"{label}: selection rule {shown(rule)} is unknown")
    check_rule(rule, label)
    if rule == "last":
        return
    if defense.yields != "candidates":
        raise ValueError(
            f"{label}: rule {rule!r} needs candidates, the defense yields {defense.yields}; "
            "accepted: last"
        )
    if rule == "own" and defense.uses != "clean":
        raise ValueError(f"{label}: rule 'own' needs clean data, the defense uses {defense.uses}")
    settings = defense.settings
    if rule.startswith("fixed:") and settings is not None:
        wanted = float(rule.removeprefix("fixed:"))
        if not any(abs(setting - wanted) <= 1e-6 for setting in settings):
            accepted = listed(f"fixed:{setting:g}" for setting in settings)
            raise ValueError(f"{label}: no candidate for {rule!r}; accepted: own, {accepted}")


def _check_attack(dataset: Dataset, attack: Attack, recipe: Recipe) -> None:
    """Refuse an attack that cannot be trained on the dataset by the recipe."""
    name, total = shown(plugin_name(attack)), 0
    for part in attack.parts:
        if part.target >= dataset.num_classes:
            raise InputError(
                f"attack {plugin_name(part)!r}: target is {part.target}, but {dataset.name} has "
                f"classes 0 to {dataset.num_classes - 1}"
            )
        poisoned = round(part.ratio * dataset.train_size)
        if not poisoned:
            raise InputError(
                f"attack {plugin_name(part)!r}: ratio is {part.ratio}, which is none of the "
                f"{dataset.train_size:,} training images of {dataset.name}"
            )
        total += poisoned
    if total > dataset.train_size:
        raise InputError(
            f"attack {name}: its parts poison {total:,} images, {dataset.name} has "
            f"{dataset.train_size:,}"
        )
    try:
        attack.check(dataset, recipe)
    except ValueError as error:
        raise InputError(f"attack {name} on {dataset.name}: {one_line(error)[:300]}") from None


def _check_model(dataset: Dataset, architecture: Architecture) -> None:
    try:
        architecture.check(dataset)
    except ValueError as error:
        name = shown(plugin_name(architecture))
        raise InputError(f"model {name} on {dataset.name}: {one_line(error)[:300]}") from None


def _check_defense(dataset: Dataset, architecture: Architecture, defense: Defense) -> None:
    try:
        defense.check(architecture, dataset)
    except ValueError as error:
        name = shown(plugin_name(defense))
        raise InputError(f"defense {name} on {dataset.name}: {one_line(error)[:300]}") from None


def _check_clean(dataset: Dataset, ratio: float) -> None:
    if not int(ratio * dataset.train_size):
        raise InputError(
            f"clean_ratio is {ratio}, which is none of the {dataset.train_size:,} training images "
            f"of {dataset.name}"
        )
