"""The one schema of a row: its columns, their types, the axes of a grid, and every fixed word.

A row is one scored model. Shares (`acc`, `asr`, `racc`, `own_acc`, ratios) are in [0, 1]. Jobs
write what they measured, the grid adds labels and what belongs to the table, `rows.csv` holds both,
and reports read nothing else. Does not import torch.
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
"""What a row measures: a victim, a model trained on clean data, nothing (an attack's asset), a round
of a defense, or one of the models that a defense offers for selection."""

STATUSES = ("ok", "diverged", "collapsed", "not applicable")
"""diverged: a prediction is not finite, or all are the same. collapsed: the victim learned its task
or its backdoor too little for a defense to be measured. not applicable: no model was scored."""

TEXT_COLUMNS = (
    *("dataset", "model", "attack", "defense"),
    *("key", "victim", "kind", "select", "uses", "status", "note", "warning"),
    *("device", "versions"),
)
NUMBER_COLUMNS = (
    *("seed", "step", "value", "acc", "asr", "racc", "n_clean", "n_poisoned", "own_acc"),
    *("poison_ratio", "clean_ratio", "seconds", "peak_mib"),
)
PART_COLUMNS = ("asr_1", "asr_2", "racc_1", "racc_2")
"""Scores of each trigger of an attack that has two; only in files that have such an attack."""

COLUMNS = (
    *(*AXES, "key", "victim", "kind", "step", "value", "select"),
    *("acc", "asr", "racc", "n_clean", "n_poisoned", "own_acc", "uses"),
    *("poison_ratio", "clean_ratio", "status", "note", "warning"),
    *("seconds", "peak_mib", "device", "versions"),
)
"""The columns of `rows.csv`, in its order."""

RULES = ("last", "fixed:V", "own", "oracle")
"""Selection rules, see `benchmark.report.tables`; V is a number."""


def check_rule(rule: str, name: str) -> None:
    """Check that `rule`, given for the defense `name`, is a selection rule.

    Raises:
        ValueError: it is not; names the accepted ones.
    """
    if not re.fullmatch(r"last|own|oracle|fixed:-?\d*\.?\d+(e-?\d+)?", rule):
        accepted = ", ".join(RULES)
        raise ValueError(
            f"{name}: selection rule {rule!r} is unknown; accepted: {accepted} (V a number)"
        )
