"""Jobs: frozen values whose canonical JSON, hashed, names their folder in the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attacks.asset import Asset, AssetPoisoning
from attacks.base import Attack
from benchmark.data import Dataset
from benchmark.store import canonical_json, name_of
from benchmark.train import Recipe
from defenses.base import Defense
from models.classifier import Architecture


@dataclass(frozen=True, kw_only=True)
class AssetJob:
    """Make what an attack needs from the clean training set, for all runs that need it.

    model, recipe: of what it trains; part of the key only if it trains the model.
    """

    dataset: Dataset
    model: Architecture
    asset: Asset
    recipe: Recipe
    seed: int

    def canonical(self) -> dict[str, Any]:
        trained = {"model": self.model.canonical(), "recipe": asdict(self.recipe)}
        return {
            "job": "asset",
            "dataset": self.dataset.canonical(),
            "asset": self.asset.canonical(),
            "seed": self.seed,
            **(trained if self.asset.trains_model else {}),
        }

    def __str__(self) -> str:
        where = f" / {self.model.label}" if self.asset.trains_model else ""
        return f"{self.dataset.label}{where} / {type(self.asset).__name__} / {self.seed}"


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """Train one victim."""

    dataset: Dataset
    model: Architecture
    attack: Attack
    recipe: Recipe
    seed: int

    def canonical(self) -> dict[str, Any]:
        return {
            "job": "attack",
            "dataset": self.dataset.canonical(),
            "model": self.model.canonical(),
            "attack": self.attack.canonical(),
            "recipe": asdict(self.recipe),
            "seed": self.seed,
        }

    @property
    def asset(self) -> AssetJob | None:
        """The job that makes what the attack needs."""
        if not isinstance(self.attack, AssetPoisoning):
            return None
        return AssetJob(
            dataset=self.dataset,
            model=self.model,
            asset=self.attack.asset,
            recipe=self.recipe,
            seed=self.seed,
        )

    def __str__(self) -> str:
        return f"{self.dataset.label} / {self.model.label} / {self.attack.label} / {self.seed}"


@dataclass(frozen=True, kw_only=True)
class DefenseJob:
    """Defend one victim and score the result.

    clean_ratio: the defender's share of the clean training set. score_every: rounds between two
    scores; the last round is always scored, and so is every candidate.
    """

    victim: AttackJob
    defense: Defense
    clean_ratio: float
    score_every: int

    def canonical(self) -> dict[str, Any]:
        return {
            "job": "defense",
            "victim": self.victim.canonical(),
            "defense": self.defense.canonical(),
            "clean_ratio": self.clean_ratio,
            "score_every": self.score_every,
        }

    def __str__(self) -> str:
        return f"{self.victim} / {self.defense.label}"


Job = AssetJob | AttackJob | DefenseJob


def describe(job: Job) -> str:
    """The canonical JSON: independent of the order of fields, of paths, time and machine."""
    return canonical_json(job.canonical())


def key(job: Job) -> str:
    """The job's name in the cache."""
    return name_of(describe(job))


def needs(job: Job) -> tuple[Job, ...]:
    """Jobs whose results this one reads."""
    if isinstance(job, DefenseJob):
        return (job.victim,)
    return (job.asset,) if isinstance(job, AttackJob) and job.asset else ()
