"""Jobs: frozen values whose canonical JSON, hashed, names their folder in the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from attacks.asset import Asset, CleanModel
from attacks.base import Attack
from benchmark.cache.store import canonical_json, name_of
from benchmark.data import Dataset
from benchmark.train import Recipe
from defenses.base import Defense
from models.classifier import Architecture


@dataclass(frozen=True, kw_only=True)
class AssetJob:
    """Make what an attack needs from the clean training set, for all runs that need it.

    model, recipe: of the model that it trains or reads; no part of the key if it uses none.
    """

    dataset: Dataset
    model: Architecture
    asset: Asset
    recipe: Recipe
    seed: int

    def canonical(self) -> dict[str, Any]:
        used = {"model": self.model.canonical(), "recipe": asdict(self.recipe)}
        return {
            "job": "asset",
            "dataset": self.dataset.canonical(),
            "asset": self.asset.canonical(),
            "seed": self.seed,
            **({} if self.asset.model_state == "unused" else used),
        }

    @property
    def clean_model(self) -> AssetJob | None:
        """The job that trains the model which the asset is made from."""
        return replace(self, asset=CleanModel()) if self.asset.model_state == "clean" else None

    def __str__(self) -> str:
        where = "" if self.asset.model_state == "unused" else f" / {self.model.label}"
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
            **({"asset": self.asset.asset.canonical()} if self.asset else {}),
        }

    @property
    def asset(self) -> AssetJob | None:
        """The job that makes what the attack needs."""
        if self.attack.asset is None:
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
    need: Job | None = None
    match job:
        case DefenseJob():
            need = job.victim
        case AttackJob():
            need = job.asset
        case AssetJob():
            need = job.clean_model
    return (need,) if need else ()
