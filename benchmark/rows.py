"""The one schema of a row: its columns, their types, the axes of a grid, and every fixed word.

A row is one scored model. Jobs write what they measured; the grid adds the labels and what belongs
to the table; `rows.csv` holds both, and reports read nothing else. Does not import torch.
"""

from __future__ import annotations

import re
from typing import Any

Row = dict[str, Any]

AXES = ("dataset", "model", "attack", "defense", "seed")
"""What tells the cells of a grid apart, in the order of labels and of nested loops."""

UNDEFENDED = "No Defense"
"""The label of the victim itself on the axis "defense"."""

KINDS = ("victim", "clean", "asset", "rounds", "candidates")
"""What a row measures: a victim, a model trained on clean data, nothing (what an attack needs was
made), a round of a defense, or one of the models that a defense offers for selection."""

STATUSES = ("ok", "diverged", "collapsed", "not applicable")
"""diverged: a prediction is not finite, or all are the same. collapsed: the victim learned its task
or its backdoor too little for a defense to be measured. not applicable: no model was scored."""

COLUMNS: dict[str, type[str] | type[float]] = {
    **dict.fromkeys(AXES[:-1], str),
    "seed": float,
    "key": str,
    "victim": str,
    "kind": str,
    "step": float,
    "value": float,
    "select": str,
    "acc": float,
    "asr": float,
    "racc": float,
    "n_clean": float,
    "n_poisoned": float,
    "own_acc": float,
    "own_acc_before": float,
    "uses": str,
    "poison_ratio": float,
    "clean_ratio": float,
    "status": str,
    "note": str,
    "warning": str,
    "seconds": float,
    "peak_mib": float,
    "device": str,
    "versions": str,
}
"""The columns of `rows.csv` in its order, text or number. A cell may be empty: "" or NaN.

dataset, model, attack, defense, seed: labels of the cell; a model trained on clean data has no
attack and no defense. key, victim: of the job, and of the job that trained its victim. kind: one of
`KINDS`. step: number of the round or candidate, from 1; 0 for a model that no defense yielded.
value: the candidate's setting. select: the selection rule, see `RULES`.
acc, asr, racc: shares in [0, 1] of n_clean clean and n_poisoned poisoned test images. own_acc: ACC
on the clean images that the defender holds; own_acc_before: the same of the model before the
defense. uses: "clean" or "train", the data that the defense is handed. poison_ratio: share of the
training set that is poisoned. clean_ratio: share that the defender holds clean.
status: one of `STATUSES`. note: what a reader may want to know about the run. warning: what is
wrong with it. seconds, peak_mib: cost since the start of the job. device, versions: where it ran.
"""

PART_COLUMNS = ("asr_1", "asr_2", "racc_1", "racc_2")
"""Scores of each trigger of an attack that has two; only in files that have such an attack."""

RULES = ("last", "fixed:V", "own", "oracle")
"""Selection rules, V a number; `benchmark.report.tables` says what each picks."""


def check_rule(rule: str, name: str) -> None:
    """Check the selection rule `rule` of the defense `name`.

    Raises:
        ValueError: no such rule; names the accepted ones.
    """
    if not re.fullmatch(r"last|own|oracle|fixed:-?\d*\.?\d+(e-?\d+)?", rule):
        accepted = ", ".join(RULES)
        raise ValueError(
            f"{name}: selection rule {rule!r} is unknown; accepted: {accepted} (V a number)"
        )
