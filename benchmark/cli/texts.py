"""Cached jobs that were made by another text of a plugin than the one that is here."""

from __future__ import annotations

from collections import defaultdict

from sau_bench.benchmark.cache.step import Plan, Step
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError

AXES = {"dataset": "dataset", "architecture": "model", "attack": "attack", "asset": "attack"}
AXES |= {"defense": "defense"}
"""The axis of `--force` that runs the jobs of each role again."""


def changed_texts(plan: Plan, store: Store) -> list[str]:
    """A line for each plugin whose file has changed since cached jobs of the plan were made.

    The key of a built-in plugin's job holds its fields and revision, not its text: most edits
    change no number. Who changed one is reminded here.
    """
    changed: dict[tuple[str, str], list[Step]] = defaultdict(list)
    for step in plan.values():
        if step.key in store and store.root.is_dir():
            for role in _changed(step, store):
                name = getattr(step.description, "attack" if role == "asset" else role)
                changed[role, name].append(step)
    lines = []
    for (role, name), steps in changed.items():
        jobs = f"{len(steps)} cached jobs" if len(steps) > 1 else f"a cached job ({steps[0]})"
        # An asset is made for an attack: its jobs are named by the victims that need it.
        force = f"--force {AXES[role]}={name}" if role != "asset" else "--force attack=..."
        lines.append(
            f"the file of {role} {name!r} has changed since {jobs} used it; if that changes "
            f"numbers, raise its revision or run them again with {force}"
        )
    return lines


def _changed(step: Step, store: Store) -> list[str]:
    try:
        recorded = store.texts(step.key)
    except (InputError, ValueError):  # whoever needs the folder will say what is wrong with it
        return []
    return [role for role, text in step.texts.items() if recorded.get(role, text) != text]
