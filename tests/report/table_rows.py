"""Rows of a grid, small enough to check by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from pandas import DataFrame

from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.rows import COLUMNS, UNDEFENDED


def row(attack: str, defense: str, acc: Any, asr: Any, **changes: Any) -> dict[str, Any]:
    """One row with sensible constants; the keys follow from attack, defense and seed."""
    seed = changes.get("seed", 0)
    victim = defense == UNDEFENDED
    constants = dict.fromkeys(COLUMNS, "") | {
        "dataset": "CIFAR-10", "model": "PreAct-ResNet18", "attack": attack, "defense": defense,
        "seed": seed, "key": f"{attack}{defense}{seed}", "victim": f"{attack}{UNDEFENDED}{seed}",
        "kind": "victim" if victim else "rounds", "step": 0 if victim else 1,
        "select": "" if victim else "last", "uses": "" if victim else "clean",
        "acc": acc, "asr": asr, "racc": 0.5, "n_clean": 10000, "n_poisoned": 9000,
        "value": np.nan, "own_acc": np.nan, "own_acc_before": np.nan, "poison_ratio": 0.1,
        "clean_ratio": np.nan if victim else 0.05, "status": "ok",
        "seconds": 10.0, "peak_mib": 100.0, "device": "test device", "versions": "test 1.0",
    }  # fmt: skip
    return constants | changes


def candidates(*scores: tuple[float, float, float, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of ANP against BadNets from (value, acc, asr, own_acc); own_acc_before is 1."""
    constants = {"kind": "candidates", "select": "own", "own_acc_before": 1.0} | changes
    return [
        row("BadNets", "ANP", acc, asr, step=step, value=value, own_acc=own_acc, **constants)
        for step, (value, acc, asr, own_acc) in enumerate(scores, start=1)
    ]


SCORES = {
    "BadNets": {"SAU": (0.9, 0.0), "No Defense": (0.9, 1.0), "FT": (0.95, 0.2)},
    "WaNet": {"SAU": (0.7, 0.9), "No Defense": (0.9, 0.8), "FT": (0.9, 0.4)},
}

VICTIM = row("BadNets", "No Defense", 0.9, 1.0)
ANP = candidates(
    (0.0, 0.9, 1.0, 1.0), (0.2, 0.88, 0.6, 0.95), (0.4, 0.82, 0.3, 0.9), (0.6, 0.5, 0, 0.6)
)


def picked(*rows: dict[str, Any], rule: str) -> Any:
    """The row that `rule` picks for ANP."""
    selected = select(DataFrame([VICTIM, *rows]), {"ANP": rule})
    return selected[selected["defense"] == "ANP"].iloc[0]


def grid(scores: dict[str, dict[str, tuple[float, float]]], **changes: Any) -> DataFrame:
    """Selected rows from {attack: {defense: (acc, asr)}}."""
    rows = [row(a, d, *pair, **changes) for a, line in scores.items() for d, pair in line.items()]
    return select(DataFrame(rows), {})
