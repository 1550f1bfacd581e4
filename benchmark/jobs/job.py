"""Jobs: frozen values whose canonical JSON, hashed, names their folder in the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from sau_bench.attacks.asset import Asset, CleanModel
from sau_bench.attacks.base import Attack
from sau_bench.benchmark.canonical import differences, job_key
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.plugin import text_digest
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Architecture


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Something that is computed once and cached."""

    @abstractmethod
    def canonical(self) -> dict[str, Any]:
        """All that the result depends on, as JSON: nothing of order, paths, time or machine."""

    @property
    @abstractmethod
    def needs(self) -> tuple[Job, ...]:
        """The jobs whose results this one reads."""

    @property
    @abstractmethod
    def plugins(self) -> dict[str, Any]:
        """The plugins, and the asset, whose code runs in this job, by role."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """`canonical` as it was when the job was planned; pickled with the job."""
        return self.canonical()

    @cached_property
    def key(self) -> str:
        """The name of the job in the cache; hashed once, and pickled with the job."""
        return job_key(self.identity)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Digests of the files of `plugins`, by role: recorded with the result, not in the key."""
        return self._texts()

    def changes(self) -> list[str]:
        """What of the job is not as it was when it was planned, by role and field.

        The jobs that this one needs count as well: a defense runs the code of its victim's
        architecture and dataset.
        """
        now = self._texts()
        changed = [f"the text of {role}" for role in now if now[role] != self.texts[role]]
        changed += differences(self.identity, self.canonical())
        return changed + [change for need in self.needs for change in need.changes()]

    def __getstate__(self) -> dict[str, Any]:
        """With key and texts: a worker must not make its own."""
        _ = self.key, self.texts
        return self.__dict__

    def _texts(self) -> dict[str, str]:
        return {role: text_digest(type(plugin)) for role, plugin in self.plugins.items()}


@dataclass(frozen=True, kw_only=True)
class AssetJob(Job):
    """Make what an attack needs from the clean training set, for all runs that need it.

    architecture, recipe: of the model that it trains or reads; no part of the key if it uses none.
    """

    dataset: Dataset
    architecture: Architecture
    asset: Asset
    recipe: Recipe
    seed: int

    def canonical(self) -> dict[str, Any]:
        used = {"architecture": self.architecture.canonical(), "recipe": asdict(self.recipe)}
        return {
            "job": "asset",
            "dataset": self.dataset.canonical(),
            "asset": self.asset.canonical(),
            "seed": self.seed,
            **({} if self.asset.model_state == "unused" else used),
        }

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.clean_model,) if self.clean_model else ()

    @property
    def plugins(self) -> dict[str, Any]:
        used = {} if self.asset.model_state == "unused" else {"architecture": self.architecture}
        return {"dataset": self.dataset, "asset": self.asset, **used}

    @property
    def clean_model(self) -> AssetJob | None:
        """The job that trains the model which the asset is made from."""
        return replace(self, asset=CleanModel()) if self.asset.model_state == "clean" else None

    def __str__(self) -> str:
        where = "" if self.asset.model_state == "unused" else f" / {self.architecture.label}"
        return f"{self.dataset.label}{where} / {type(self.asset).__name__} / {self.seed}"


@dataclass(frozen=True, kw_only=True)
class AttackJob(Job):
    """Train one victim."""

    dataset: Dataset
    architecture: Architecture
    attack: Attack
    recipe: Recipe
    seed: int

    def canonical(self) -> dict[str, Any]:
        return {
            "job": "attack",
            "dataset": self.dataset.canonical(),
            "architecture": self.architecture.canonical(),
            "attack": self.attack.canonical(),
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            **({"asset": self.asset.asset.canonical()} if self.asset else {}),
        }

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.asset,) if self.asset else ()

    @property
    def plugins(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "architecture": self.architecture, "attack": self.attack}

    @cached_property
    def asset(self) -> AssetJob | None:
        """The job that makes what the attack needs."""
        if self.attack.asset is None:
            return None
        return AssetJob(
            dataset=self.dataset,
            architecture=self.architecture,
            asset=self.attack.asset,
            recipe=self.recipe,
            seed=self.seed,
        )

    def __str__(self) -> str:
        where = f"{self.dataset.label} / {self.architecture.label}"
        return f"{where} / {self.attack.label} / {self.seed}"


@dataclass(frozen=True, kw_only=True)
class DefenseJob(Job):
    """Defend one victim and score the result.

    clean_ratio: the defender's share of the clean training set. score_every: rounds between two
    scores, or "doubling" after rounds 1, 2, 4, 8 and so on; the last round is always scored, and so
    is every candidate. probes: what is measured with each score beside it, see
    `benchmark.rows.PROBES`. keep: whether the weights of the last round, or of every candidate, are
    results too.
    """

    victim: AttackJob
    defense: Defense
    clean_ratio: float
    score_every: int | Literal["doubling"]
    probes: tuple[str, ...] = ()
    keep: bool = False

    def canonical(self) -> dict[str, Any]:
        # A job that measures and keeps no more than the scores has the key it had before it could.
        more: dict[str, Any] = {"probes": list(self.probes)} if self.probes else {}
        if self.keep:
            more["keep"] = True
        return {
            "job": "defense",
            "victim": self.victim.canonical(),
            "defense": self.defense.canonical(),
            "clean_ratio": self.clean_ratio,
            "score_every": self.score_every,
            **more,
        }

    def scores(self, step: int) -> bool:
        """Whether the model after a step, counted from 1, is scored though it is not the last."""
        if self.defense.yields == "candidates":
            return True
        if self.score_every == "doubling":
            return step.bit_count() == 1
        return step % self.score_every == 0

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.victim,)

    @property
    def plugins(self) -> dict[str, Any]:
        return {"defense": self.defense}

    def __str__(self) -> str:
        return f"{self.victim} / {self.defense.label}"
