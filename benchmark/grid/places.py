"""From a config to its labelled jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sau_bench.attacks.asset import CleanModel
from sau_bench.attacks.base import Attack
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError, shown
from sau_bench.benchmark.grid.checks import (
    check_attack,
    check_clean,
    check_defense,
    check_model,
    check_once,
    check_recipes,
    check_rules,
    check_size,
)
from sau_bench.benchmark.grid.config import CLEAN_RATIO, Config, When
from sau_bench.benchmark.grid.entries import (
    Change,
    Entry,
    changes_of,
    check_conditions,
    entries_of,
    holds,
)
from sau_bench.benchmark.grid.labels import labels_of
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.plugin import Plugin, construct, plugin_name
from sau_bench.benchmark.rows import AXES, UNDEFENDED
from sau_bench.benchmark.train import Recipe
from sau_bench.models.classifier import Architecture

Place = Mapping[str, Any]
"""The labels of a job along the axes of a grid; a model trained on clean data has fewer."""


def places_of(config: Config) -> dict[Job, Place]:
    """Each victim, followed by its defenses; then models trained on clean data.

    Raises:
        InputError: a plugin, field or value that does not exist, an entry that is there twice, a
            class that no dataset has, or a cell that cannot be finished.
    """
    entries = {a: entries_of(f"{a}s", getattr(config, f"{a}s")) for a in AXES[:-1]}
    check_size(config, entries)
    plugins: dict[str, list[Any]] = {
        axis: [entry.plugin() for entry in of_axis] for axis, of_axis in entries.items()
    }
    check_recipes(config, entries["attack"], plugins["attack"])
    for axis, values in {**plugins, "seed": config.seeds}.items():
        check_once(f"{axis}s", values)
    check_once("clean_ratio", config.clean_ratios)
    whens = _whens(config, plugins)
    variants = [
        (number, ratio)
        for number, defense in enumerate(plugins["defense"])
        for ratio in (config.clean_ratios if defense.uses == "clean" else [CLEAN_RATIO])
    ]
    labels = {
        a: labels_of(a, [(p, ()) for p in plugins[a]]) for a in ("dataset", "model", "attack")
    }
    labels["defense"] = labels_of(
        "defense",
        [
            (plugins["defense"][n], [f"clean_ratio={ratio}"] if ratio != CLEAN_RATIO else [])
            for n, ratio in variants
        ],
    )
    places: dict[Job, Place] = {}
    references: dict[Job, Place] = {}
    for (dataset, its_label), (model, label) in product(
        zip(plugins["dataset"], labels["dataset"], strict=True),
        zip(plugins["model"], labels["model"], strict=True),
    ):
        here = {"dataset": its_label, "model": label}
        pair = _Pair(dataset, model, [w for w in whens if w.holds(dataset, model)])
        attacks = [
            (*pair.attack(entry, plugin, config), name)
            for entry, plugin, name in zip(
                entries["attack"], plugins["attack"], labels["attack"], strict=True
            )
        ]
        built = [
            pair.plugin(entry, plugin)
            for entry, plugin in zip(entries["defense"], plugins["defense"], strict=True)
        ]
        defenses = [
            (built[number], ratio, name)
            for (number, ratio), name in zip(variants, labels["defense"], strict=True)
        ]
        check_rules(config.select, {name: defense for defense, _, name in defenses})
        check_model(dataset, model)
        for attack, recipe, _ in attacks:
            check_attack(dataset, attack, recipe)
        for defense, ratio, _ in defenses:
            if defense.uses == "clean":
                check_clean(dataset, ratio)
            check_defense(dataset, model, defense, config.probes)
        for (attack, recipe, name), seed in product(attacks, config.seeds):
            victim = AttackJob(
                dataset=dataset, architecture=model, attack=attack, recipe=recipe, seed=seed
            )
            place = {**here, "attack": name, "defense": UNDEFENDED, "seed": seed}
            _add(places, victim, place, "attack")
            for defense, ratio, title in defenses:
                defended = DefenseJob(
                    victim=victim,
                    defense=defense,
                    clean_ratio=ratio,
                    score_every=config.score_every,
                    probes=tuple(config.probes),
                    keep="defended" in config.keep,
                )
                _add(places, defended, place | {"defense": title}, "defense")
        for seed in config.seeds if config.clean_model else ():
            recipe = pair.recipe(config.recipe, {}, "recipe")
            clean = AssetJob(
                dataset=dataset, architecture=model, asset=CleanModel(), recipe=recipe, seed=seed
            )
            references[clean] = here | {"seed": seed}
    return places | references


@dataclass(frozen=True)
class _When:
    """An entry of `when`, read: where it holds, and what it changes."""

    when: When
    changes: Sequence[Change]

    def holds(self, dataset: Dataset, model: Architecture) -> bool:
        return holds(self.when, "dataset", dataset) and holds(self.when, "model", model)


@dataclass(frozen=True)
class _Pair:
    """A dataset and an architecture, and the entries of `when` that hold there."""

    dataset: Dataset
    model: Architecture
    whens: Sequence[_When]

    def changes(self, plugin: Plugin) -> list[Change]:
        return [c for when in self.whens for c in when.changes if c.cls is type(plugin)]

    def plugin(self, entry: Entry, plugin: Any) -> Any:
        """The plugin of an entry as it is here. plugin: as it is where nothing changes it."""
        changes = [change.values for change in self.changes(plugin) if change.values]
        return entry.plugin(changes) if changes else plugin

    def attack(self, entry: Entry, plugin: Attack, config: Config) -> tuple[Attack, Recipe]:
        """The attack of an entry as it is here, and how its victims are trained."""
        recipe: dict[str, Any] = {}
        for changes in (*(change.recipe for change in self.changes(plugin)), entry.recipe):
            recipe.update(changes)
        what = f"attack {plugin_name(plugin)!r}: recipe" if recipe else "recipe"
        return self.plugin(entry, plugin), self.recipe(config.recipe, recipe, what)

    def recipe(self, recipe: Mapping[str, Any], own: Mapping[str, Any], what: str) -> Recipe:
        """That of the config and its changes here, under the fields of an attack's `recipe`."""
        values = {**recipe}
        for when in self.whens:
            values |= when.when.recipe
        made: Recipe = construct(Recipe, {**values, **own}, what)
        return made


def _whens(config: Config, plugins: Mapping[str, Sequence[Plugin]]) -> list[_When]:
    whens = []
    for number, when in enumerate(config.when):
        what = f"when.{number}"
        check_conditions(when, {axis: plugins[axis] for axis in ("dataset", "model")}, what)
        construct(Recipe, when.recipe, f"{what}: recipe")
        changes = [
            *changes_of("attacks", when.attacks, what),
            *changes_of("defenses", when.defenses, what),
        ]
        whens.append(_When(when, changes))
    return whens


def _add(places: dict[Job, Place], job: Job, place: Place, axis: str) -> None:
    if job in places:  # what told two entries apart is gone on this dataset and architecture
        first, second = shown(places[job][axis], 200), shown(place[axis], 200)
        where = f"{place['dataset']} and {place['model']}"
        raise InputError(f"{axis}s {first} and {second} are the same on {where}; accepted: one")
    places[job] = place
