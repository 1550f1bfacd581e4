"""What is left to do of a plan, and what of it may start next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container

from benchmark.run.durations import Durations, Plan, chains, row_order


class Agenda:
    """The open jobs of a plan: neither done nor given up.

    open: their keys, in the order of the plan. ready: those of them that wait for nothing and were
    not taken out by whoever runs them.
    """

    def __init__(self, plan: Plan, done: Container[str]) -> None:
        self.plan = plan
        self.open = {key: None for key in plan if key not in done}
        self.ready: list[str] = []
        self._missing: dict[str, set[str]] = {}
        self._after: dict[str, list[str]] = defaultdict(list)
        self._ranks: dict[str, tuple[float, ...]] = {}
        for key in self.open:
            self._missing[key] = {need for need in plan[key].needs if need not in done}
            for need in self._missing[key]:
                if need not in plan:
                    raise RuntimeError(f"{plan[key]} needs {need}, which is not among the jobs")
                self._after[need].append(key)
            if not self._missing[key]:
                self.ready.append(key)

    def settle(self, key: str) -> None:
        """The job is done: what has waited for it alone is ready."""
        self._drop(key)
        for name in self._after[key]:
            self._missing[name].discard(key)
            if not self._missing[name] and name in self.open:
                self.ready.append(name)

    def give_up(self, key: str) -> list[str]:
        """The job has failed; the open jobs that need it, directly or not, and are given up too."""
        self._drop(key)
        blocked = [name for name in self._after[key] if name in self.open]
        for name in list(blocked):
            if name in self.open:
                blocked.extend(self.give_up(name))
        return list(dict.fromkeys(blocked))

    def in_order(self, durations: Durations, by_row: bool) -> list[str]:
        """The ready jobs, the longest chain of work first.

        by_row: those first that complete the rows of the tables which need least to be complete.
        """
        if not self._ranks:
            chain = chains(self.plan, self.open, durations)
            rows = row_order(self.plan, self.open, durations) if by_row else {}
            self._ranks = {
                key: (rows.get(key, 0), -chain[key], i) for i, key in enumerate(self.open)
            }
        return sorted(self.ready, key=self._ranks.__getitem__)

    def _drop(self, key: str) -> None:
        del self.open[key]
        if key in self.ready:
            self.ready.remove(key)
        self._ranks = {}
