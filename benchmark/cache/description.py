"""What the canonical JSON of a job says, by attributes, and the titles of jobs in lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TRAINING_SET = 50_000
"""Images of a training set whose size is not known."""


@dataclass(frozen=True)
class Description:
    """A job by its canonical JSON alone, so that finished jobs of any grid can be read back.

    Attributes of a job that has no such part, or whose JSON is of another form, are empty.
    """

    canonical: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """ "asset", "attack" or "defense"."""
        return str(self.canonical.get("job", ""))

    @cached_property
    def victim(self) -> Mapping[str, Any]:
        """The part that says what is attacked: of a defense its victim, else the whole."""
        victim = self.canonical.get("victim", self.canonical)
        return victim if isinstance(victim, Mapping) else {}

    @property
    def dataset(self) -> str:
        return _name(self.victim.get("dataset"))

    @property
    def architecture(self) -> str:
        return _name(self.victim.get("architecture"))

    @property
    def attack(self) -> str:
        """The attack, or the asset where the job makes one."""
        # The description of a victim names the asset of its attack, too.
        return _name(self.victim.get("attack", self.victim.get("asset")))

    @property
    def defense(self) -> str:
        return _name(self.canonical.get("defense"))

    @property
    def seed(self) -> str:
        return _name(self.victim.get("seed"))

    @property
    def method(self) -> str:
        """What the job runs: the defense, else the attack or asset."""
        return self.defense or self.attack

    @cached_property
    def passes(self) -> float:
        """Passes over the training set that the job's fields ask for, as far as they tell."""
        if "defense" in self.canonical:
            share = float(self.canonical.get("clean_ratio", 1))
            defense = self.canonical["defense"]
            return share * _epochs(defense) + _drawn(defense) / TRAINING_SET
        return _epochs(self.canonical.get("recipe", {}))

    @property
    def title(self) -> str:
        """ "dataset / architecture / attack / seed / defense", as far as known, else "unknown"."""
        parts = (self.dataset, self.architecture, self.attack, self.seed, self.defense)
        return " / ".join(filter(None, parts)) or "unknown"

    @cached_property
    def fields(self) -> dict[str, str]:
        """All fields by dotted name; long values, which are hashes, cut."""
        return _flat(self.canonical)


def titles(descriptions: Sequence[Description]) -> list[str]:
    """The title of each job; of several with one title, each also names the fields that differ."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for description in descriptions:
        groups[description.title].append(description.fields)
    differing = {
        title: [
            name
            for name in dict.fromkeys(name for fields in group for name in fields)
            if len({fields.get(name) for fields in group}) > 1
        ]
        for title, group in groups.items()
    }
    named = []
    for description in descriptions:
        names, fields = differing[description.title], description.fields
        parts = [f"{name}={fields.get(name, '-')}" for name in names]
        named.append(description.title + (f" ({', '.join(parts)})" if parts else ""))
    return named


def _name(part: Any) -> str:
    if isinstance(part, Mapping):
        return str(part.get("plugin") or part.get("asset") or "?")
    return "" if part is None else str(part)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, field in value.items():
        if isinstance(field, Mapping):
            flat |= _flat(field, "" if name == "victim" else f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(field)[:12]
    return flat


def _epochs(value: Any) -> float:
    """All epochs of a method: its fields', those of its recipes, of a network it trains first."""
    if not isinstance(value, Mapping):
        return 0.0
    epochs = sum(float(value.get(name, 0)) for name in ("epochs", "rounds"))
    return epochs + sum(_epochs(entry) for entry in value.values())


def _drawn(defense: Any) -> float:
    """Images of a method that counts iterations instead of epochs."""
    if not isinstance(defense, Mapping):
        return 0.0
    return float(defense.get("iterations", 0)) * float(defense.get("batch_size", 0))
