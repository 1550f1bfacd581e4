"""The one schema of a row: its columns, their types, the axes of a grid, and every fixed word.

A row is one scored model. Jobs write what they measured; the grid adds the labels and what belongs
to the table; `rows.csv` holds both, and reports read nothing else. Does not import torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
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
"""Of a job with results. diverged: a prediction is not finite, or all are the same. collapsed: the
victim learned its task or its backdoor too little for a defense to be measured, see `MIN_CHANCES`
and `MIN_ASR`. not applicable: no model was scored."""

NO_RESULT = ("unusable", "failed", "blocked", "missing")
"""Statuses of a cell without results; its note says why. unusable: rows that no table can use, or
that the selection rule picks nothing from. failed: the job has failed. blocked: a job that it needs
has failed. missing: not run yet. Such a row has no scores, step 0, and the kind that the job would
have had."""

MIN_CHANCES, MIN_ASR = 2, 0.5
"""A victim is collapsed when its ACC is below `MIN_CHANCES` / K, K the number of classes (1 / K is
the ACC of chance), or when the ASR of one of its triggers is below `MIN_ASR`. Twice chance is far
below any network of use, and far above one that collapsed."""

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
    "arithmetic": str,
}
"""The columns of `rows.csv` in its order, text or number. A cell may be empty: "" or NaN.

dataset, model, attack, defense, seed: labels of the cell; a model trained on clean data has no
attack and no defense. key, victim: of the job, and of the job that trained its victim. kind: one of
`KINDS`. step: number of the round or candidate, from 1; 0 for a model that no defense yielded.
value: the candidate's setting. select: the selection rule, see `RULES`.
acc, asr, racc: shares in [0, 1] of n_clean clean and n_poisoned poisoned test images. own_acc: ACC
on the clean images that the defender holds; own_acc_before: the same of the model before the
defense. uses: "clean", "train" or "none", the data that the defense is handed. poison_ratio: share
of the training set that is poisoned. clean_ratio: share that the defender holds clean.
status: one of `STATUSES` or `NO_RESULT`. note: what a reader may want to know about the run.
warning: what is wrong with it. seconds, peak_mib: cost since the start of the job. device: where it
ran. versions: of torch and of the harness, in a clone with its commit; of earlier rows of torch
alone. arithmetic: the precision of the training ("bf16", say), as its recipe declares it, and "not
repeatable" where a GPU was free to choose kernels; scores are fp32 always.
"""

LATER_COLUMNS = ("arithmetic",)
"""Columns that files of earlier versions lack: empty there."""

PART_COLUMNS = ("asr_1", "asr_2", "racc_1", "racc_2")
"""Scores of each trigger of an attack that has two; only in files that have such an attack."""

PROBES: dict[str, tuple[str, ...]] = {
    "risk": ("adv_risk", "shared_risk", "shared_risk_joint", "risk_before")
}
"""What a config can have measured with each score, and its columns; only in files that have them.

risk: adversarial and shared adversarial risk of the model by the searches of `benchmark.risk`, as
shares of the first 1,000 test images that the trigger would move to another class; and the
adversarial risk of the model before the defense, where every adversarial example is shared."""

PROBE_COLUMNS = tuple(column for columns in PROBES.values() for column in columns)

REJECTED_COLUMNS = ("rejected", "rejected_poisoned")
"""Shares of clean and of poisoned test images that a model has rejected; only in files that have a
defense whose models may."""

EXTRA_COLUMNS = (*PART_COLUMNS, *PROBE_COLUMNS, *REJECTED_COLUMNS)
"""The columns, all numbers, that a file has only where something in it needs them."""

SHARES = ("acc", "asr", "racc", "own_acc", "own_acc_before", *EXTRA_COLUMNS)
"""The columns whose numbers lie in [0, 1]."""

NOTE_LENGTH = 300
"""The length, in characters, to which the reason of a missing result is clipped."""

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


def reason(text: object) -> str:
    """Why there is no result, as a note: one printable line of at most `NOTE_LENGTH` characters."""
    start = str(text)[: 10 * NOTE_LENGTH]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    return line if len(line) <= NOTE_LENGTH else line[: NOTE_LENGTH - 4] + " ..."


def without_result(kind: str, status: str, why: object) -> Row:
    """The row of a cell without results; status: one of `NO_RESULT`."""
    return {"kind": kind, "step": 0, "status": status, "note": reason(why)}


def fault(row: object) -> str:
    """What makes a row unusable for every table, "" where nothing does.

    It is no mapping, or has an unknown kind or status, text in place of a number or the reverse, a
    share outside [0, 1], or no score although it is "ok".
    """
    return next(_faults(row), "")


def _faults(row: object) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"a row is a {type(row).__name__}, expected a mapping"
        return
    for name, words in (("kind", KINDS), ("status", (*STATUSES, *NO_RESULT))):
        if row.get(name) not in words:
            yield f"{name} {_shown(row.get(name))} is unknown"
    for name, kind in (COLUMNS | dict.fromkeys(EXTRA_COLUMNS, float)).items():
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if kind is str:
            if not isinstance(value, str):
                yield f"{name} {_shown(value)} is no text"
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name} {_shown(value)} is no number"
        elif not -math.inf < value < math.inf:
            yield f"{name} is not finite"
        elif name in SHARES and not 0 <= value <= 1:
            yield f"{name} {_shown(value)} is no share in [0, 1]"
    if not _is_number(row.get("step")):
        yield "it has no step"
    if row.get("status") == "ok":
        scores = {"asset": [], "clean": ["acc"]}.get(row["kind"], ["acc", "asr"])
        yield from (f"it has no {name.upper()}" for name in scores if not _is_number(row.get(name)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " ..."
