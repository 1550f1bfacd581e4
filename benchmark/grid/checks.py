"""Cells that cannot be finished are refused before a grid starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sau_bench.attacks.base import Attack
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError, listed, nearest, one_line, shown
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.entries import Entry
from sau_bench.benchmark.plugin import Plugin, construct, plugin_name
from sau_bench.benchmark.rows import AXES, check_rule
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.base import DECLARED, Defense
from sau_bench.models.classifier import Architecture

CELLS = 100_000
"""The most cells of a grid; the paper's tables have a few hundred."""


def check_size(config: Config, entries: Mapping[str, Sequence[Entry]]) -> None:
    defenses = 1 + len(entries["defense"]) * len(config.clean_ratios)
    axes = [len(entries[axis]) for axis in AXES[:3]]
    if (cells := math.prod((*axes, defenses, len(config.seeds)))) > CELLS:
        raise InputError(f"the grid has {cells:,} cells, accepted: at most {CELLS:,}")


def check_recipes(config: Config, entries: Sequence[Entry], attacks: Sequence[Attack]) -> None:
    """Refuse an attack that is there with two recipes: no label tells them apart."""
    recipes: dict[Attack, Recipe] = {}
    for entry, attack in zip(entries, attacks, strict=True):
        what = f"attack {plugin_name(attack)!r}: recipe" if entry.recipe else "recipe"
        recipe = construct(Recipe, {**config.recipe, **entry.recipe}, what)
        if recipes.setdefault(attack, recipe) != recipe:
            raise InputError(f"two recipes for the attack {plugin_name(attack)!r}; accepted: one")


def check_once(key: str, entries: Sequence[Any]) -> None:
    seen = set()
    for entry in entries:
        if entry in seen:
            name = shown(entry.label if isinstance(entry, Plugin) else entry, 200)
            raise InputError(f"{key}: {name} is there twice with the same values; accepted: once")
        seen.add(entry)


def rules_by_label(rules: Mapping[str, str], defenses: Mapping[str, Defense]) -> dict[str, str]:
    """The selection rules of a config, which may name a defense as the config or as tables do.

    defenses: by label.

    Raises:
        InputError: nothing, or more than one defense, has a name; or a defense has two rules.
    """
    named: dict[str, list[str]] = {label: [label] for label in defenses}
    for label, defense in defenses.items():
        if (name := plugin_name(defense)) not in defenses:
            named.setdefault(name, []).append(label)
    by_label: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, rule in rules.items():
        if name not in named:
            raise InputError(
                f"select: no defense {shown(name)} in this grid; accepted: {listed(named)}"
                f"{nearest(name, named)}"
            )
        if len(named[name]) > 1:
            raise InputError(
                f"select: {shown(name)} is the name of {len(named[name])} defenses in this grid; "
                f"accepted: {listed(map(repr, named[name]), 400)}"
            )
        (label,) = named[name]
        if (other := names.setdefault(label, name)) != name:
            two = f"{shown(other, 200)} and {shown(name, 200)}"
            raise InputError(f"select: {two} are names of one defense; accepted: one rule")
        by_label[label] = rule
    return by_label


def check_rules(rules: Mapping[str, str], defenses: Mapping[str, Defense]) -> None:
    """Selection rules are applied after training, but a wrong one should be known before.

    defenses: by label.
    """
    chosen = rules_by_label(rules, defenses)
    for label, defense in defenses.items():
        try:
            _check_rule(chosen.get(label, defense.select), label, defense)
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


def check_attack(dataset: Dataset, attack: Attack, recipe: Recipe) -> None:
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
    if len(attack.parts) > 1 and any(part.from_files for part in attack.parts):
        raise InputError(
            f"attack {name}: a part of it must not be an attack whose images are files"
        )
    if total > dataset.train_size:
        raise InputError(
            f"attack {name}: its parts poison {total:,} images, {dataset.name} has "
            f"{dataset.train_size:,}"
        )
    try:
        attack.check(dataset, recipe)
    except ValueError as error:
        raise InputError(f"attack {name} on {dataset.name}: {one_line(error)[:300]}") from None


def check_model(dataset: Dataset, architecture: Architecture) -> None:
    """Refuse an architecture that cannot take the dataset's images."""
    try:
        architecture.check(dataset)
    except ValueError as error:
        name = shown(plugin_name(architecture))
        raise InputError(f"model {name} on {dataset.name}: {one_line(error)[:300]}") from None


def check_defense(
    dataset: Dataset, architecture: Architecture, defense: Defense, probes: Sequence[str] = ()
) -> None:
    """Refuse a defense with declarations that nobody knows, or that cannot be run here."""
    for word, accepted in DECLARED.items():
        if (value := getattr(defense, word)) not in accepted:
            raise InputError(
                f"defense {shown(plugin_name(defense))}: {word} is {shown(value)}, accepted: "
                f"{listed(map(str, accepted))}"
            )
    if defense.rejects and probes:
        raise InputError(
            f"defense {shown(plugin_name(defense))}: its models may reject images, which "
            f"{listed(probes)} cannot measure; accepted: probes: []"
        )
    try:
        defense.check(architecture, dataset)
    except ValueError as error:
        name = shown(plugin_name(defense))
        raise InputError(f"defense {name} on {dataset.name}: {one_line(error)[:300]}") from None


def check_clean(dataset: Dataset, ratio: float) -> None:
    if not int(ratio * dataset.train_size):
        raise InputError(
            f"clean_ratio is {ratio}, which is none of the {dataset.train_size:,} training images "
            f"of {dataset.name}"
        )
