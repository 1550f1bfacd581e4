"""From a config to its jobs, and from finished jobs to labelled rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from attacks.asset import CleanModel
from attacks.base import Attack
from benchmark.cache.store import Row, Store
from benchmark.data import Dataset
from benchmark.errors import InputError, nearest
from benchmark.grid.config import Config
from benchmark.grid.labels import AXES, filters_of, kept, labels_of
from benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job, key, needs
from benchmark.plugin import Plugin, build, construct, key_of
from benchmark.rows import COLUMNS, PART_COLUMNS, check_rule
from benchmark.train import Recipe
from defenses.base import Defense

NO_DEFENSE = "No Defense"
MIN_ASR = 0.5
"""Below this undefended ASR an attack did not work, and defending it says nothing."""


@dataclass(frozen=True)
class Grid:
    """The cells of a config with built plugins and the labels that tell them apart."""

    victims: tuple[AttackJob, ...]
    defenses: tuple[Defense, ...]
    labels: dict[Plugin, str]
    clean_ratio: float
    score_every: int
    references: tuple[AssetJob, ...] = ()
    """Models trained on clean data, to compare the victims' ACC with."""

    def cells(self) -> Iterator[tuple[AttackJob, DefenseJob | None]]:
        """Each victim undefended (None), then under each defense."""
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
                    ),
                )

    def jobs(self) -> list[Job]:
        """Every job once, what it needs before it."""
        jobs: dict[str, Job] = {}

        def add(job: Job) -> None:
            for need in needs(job):
                add(need)
            jobs.setdefault(key(job), job)

        for victim, defended in self.cells():
            add(defended or victim)
        for reference in self.references:
            add(reference)
        return list(jobs.values())

    def place(self, victim: AttackJob, defended: DefenseJob | None) -> dict[str, Any]:
        """Labels of a cell along each axis of the grid."""
        return {
            "dataset": self.labels[victim.dataset],
            "model": self.labels[victim.model],
            "attack": self.labels[victim.attack],
            "defense": self.labels[defended.defense] if defended else NO_DEFENSE,
            "seed": victim.seed,
        }

    def rows(self, store: Store) -> pd.DataFrame:
        """Labelled rows of all finished cells, in the grid's order."""
        found: list[Row] = []
        for victim, defended in self.cells():
            if key(defended or victim) not in store:
                continue
            labels = self.place(victim, defended) | {
                "key": key(defended or victim),
                "victim": key(victim),
                "clean_ratio": _budget(defended),
            }
            found.extend(labels | _judged(victim, row) for row in store.rows(labels["key"]))
        for job in self.references:
            if key(job) in store:
                place = {"dataset": self.labels[job.dataset], "model": self.labels[job.model]}
                found.extend(
                    row | place | {"seed": job.seed, "key": key(job)}
                    for row in store.rows(key(job))
                )
        table = pd.DataFrame(found)
        return table.reindex(columns=[*COLUMNS, *(c for c in PART_COLUMNS if c in table)])


def make_grid(config: Config, only: str = "") -> Grid:
    """Build every plugin of a config; `only` keeps cells, as in "attack=badnets,defense=sau".

    Raises:
        InputError: a plugin, field or value that does not exist, or a class no dataset has.
    """
    recipes = _recipes(config)
    parts: dict[str, list[Any]] = {
        "dataset": [build("datasets", spec) for spec in config.datasets],
        "model": [build("models", spec) for spec in config.models],
        "attack": list(recipes),
        "defense": [build("defenses", spec) for spec in config.defenses],
        "seed": list(config.seeds),
    }
    parts = {axis: list(dict.fromkeys(entries)) for axis, entries in parts.items()}
    labels: dict[Plugin, str] = {}
    for axis in AXES[:-1]:
        labels |= labels_of(axis, parts[axis])
    _check_rules(config.select, [labels[defense] for defense in parts["defense"]])
    filters = filters_of(only)
    for axis, names in filters.items():
        parts[axis] = kept(axis, parts[axis], names, labels)
    for dataset, attack in product(parts["dataset"], parts["attack"]):
        _check_target(dataset, attack)
    victims = tuple(
        AttackJob(dataset=dataset, model=model, attack=attack, recipe=recipes[attack], seed=seed)
        for dataset, model, attack, seed in product(
            parts["dataset"], parts["model"], parts["attack"], parts["seed"]
        )
    )
    references = tuple(
        AssetJob(
            dataset=dataset,
            model=model,
            asset=CleanModel(),
            recipe=construct(Recipe, config.recipe, "recipe"),
            seed=seed,
        )
        for dataset, model, seed in product(parts["dataset"], parts["model"], parts["seed"])
        if config.clean_model and not filters.keys() & {"attack", "defense"}
    )
    defenses = tuple(parts["defense"])
    return Grid(victims, defenses, labels, config.clean_ratio, config.score_every, references)


def _recipes(config: Config) -> dict[Attack, Recipe]:
    """The attacks, each with the config's recipe under the fields of a `recipe` of its own."""
    recipes: dict[Attack, Recipe] = {}
    for spec in config.attacks:
        given, own = spec, {}
        if isinstance(spec, Mapping) and len(spec) == 1:
            ((name, values),) = spec.items()
            if isinstance(values, Mapping) and isinstance(values.get("recipe"), Mapping):
                own = values["recipe"]
                given = {name: {k: v for k, v in values.items() if k != "recipe"}}
        attack: Any = build("attacks", given)
        what = f"attack {key_of(attack)!r}: recipe" if own else "recipe"
        recipe = construct(Recipe, {**config.recipe, **own}, what)
        if recipes.setdefault(attack, recipe) != recipe:
            raise InputError(f"attack {key_of(attack)!r} is given twice with different recipes")
    return recipes


def check_data(grid: Grid, data: Path) -> None:
    """Read every dataset of the grid once, so that a missing one is known before any training.

    Raises:
        InputError: names the command that makes the missing files.
    """
    for dataset in dict.fromkeys(victim.dataset for victim in grid.victims):
        dataset(data)


def _judged(victim: AttackJob, row: Row) -> Row:
    """The row; a victim that learned neither its task nor its backdoor is marked as collapsed."""
    if row["kind"] != "victim" or row["status"] != "ok":
        return row
    # Twice chance is far below any network of use, and far above one that collapsed.
    task_lost = row["acc"] < 2 / victim.dataset.num_classes
    weakest = min(value for name, value in row.items() if name.startswith("asr"))
    return row | ({"status": "collapsed"} if task_lost or weakest < MIN_ASR else {})


def _budget(defended: DefenseJob | None) -> float | None:
    """The share of the training set that a defense is handed clean; None where it gets none."""
    if defended is None or defended.defense.uses != "clean":
        return None
    return defended.clean_ratio


def _check_rules(rules: Mapping[str, str], labels: Sequence[str]) -> None:
    """Selection rules are applied after training, but a wrong one should be known before."""
    for label, rule in rules.items():
        if label not in labels:
            raise InputError(
                f"select: no defense {label!r} in this grid; accepted: {', '.join(labels)}"
                f"{nearest(label, labels)}"
            )
        try:
            check_rule(rule, label)
        except ValueError as error:
            raise InputError(f"select: {error}") from None


def _check_target(dataset: Dataset, attack: Attack) -> None:
    for part in attack.parts:
        if part.target >= dataset.num_classes:
            raise InputError(
                f"attack {key_of(part)!r}: target is {part.target}, but {dataset.name} has classes "
                f"0 to {dataset.num_classes - 1}"
            )
