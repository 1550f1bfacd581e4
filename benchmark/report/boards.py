"""Entries of a leaderboard: who is compared with whom, and on what.

Two entries are compared where dataset, architecture, attack with its fields and the training of its
victims, poisoning ratio, the data that the defense is handed and the selection rule agree. All of
that but the attack is a board; an Average covers entries with the same attacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from pandas import DataFrame

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.merge import Conflict
from sau_bench.benchmark.report.remarks import handed
from sau_bench.benchmark.report.render import MARKS, METRICS, Table
from sau_bench.benchmark.rows import UNDEFENDED

PARTS = ("dataset", "network", "poisoning ratio", "data of the defense", "selection")
"""What a board is about, see `Entry.setting`."""


@dataclass(frozen=True)
class Entry:
    """One defense on one attack: its selected rows, of all seeds.

    setting: texts for `PARTS`. disputed: two sources have other numbers of a run of it.
    """

    setting: tuple[str, ...]
    attack: str
    defense: str
    runs: DataFrame
    disputed: bool

    @cached_property
    def state(self) -> str:
        """See `benchmark.report.tables.state_of`; of the seeds that are there."""
        entering = tables.counted(self.runs)
        runs = list(zip(self.runs["status"], entering, strict=True))
        return tables.state_of(runs, len(runs))

    @property
    def sound(self) -> bool:
        """Whether it can be ranked and averaged."""
        return self.state in tables.SOUND and not self.disputed

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self._scored["seed"]))

    @property
    def _scored(self) -> DataFrame:
        entering = tables.counted(self.runs)
        return self.runs[entering] if entering.any() else self.runs[self.runs["acc"].notna()]

    def mean(self, metric: str) -> float:
        """In percent, over the seeds that count; NaN without any."""
        return float(100 * self._scored[metric].mean())

    def std(self, metric: str) -> float:
        return float(100 * self._scored[metric].std())

    def text(self, metric: str) -> str:
        """As it is printed: mean, spread over seeds, mark."""
        if self.state in tables.ABSENT:
            return MARKS[self.state]
        value, spread = self.mean(metric), self.std(metric)
        if np.isnan(value):
            return "-"
        return f"{value:.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}") + self.mark

    @property
    def mark(self) -> str:
        return MARKS.get(self.state, "") + "?" * self.disputed

    def those(self, column: str) -> str:
        """The distinct texts of a column."""
        return "; ".join(dict.fromkeys(str(text) for text in self.runs[column] if text != ""))


@dataclass(frozen=True)
class Board:
    """The entries of one setting, by number from 1; victims are those of its attacks."""

    number: int
    setting: tuple[str, ...]
    entries: Sequence[Entry]
    victims: Sequence[Entry]

    @property
    def title(self) -> str:
        dataset, network, ratio, data, rule = self.setting
        return f"{dataset}, {network}; poisoning ratio {ratio}; {data}; selection {rule}"

    def differs(self, other: Board) -> str:
        """What another board has otherwise."""
        pairs = zip(PARTS, self.setting, other.setting, strict=True)
        return ", ".join(
            f"{part} {ours} ({theirs})" for part, ours, theirs in pairs if ours != theirs
        )

    def ranks(self) -> dict[tuple[str, str], int]:
        """By (attack, defense) the place by DER, to two decimals, among those on that attack."""
        places: dict[tuple[str, str], int] = {}
        for attack in dict.fromkeys(entry.attack for entry in self.entries):
            scores = {
                entry.defense: round(entry.mean("der"), 2)
                for entry in self.entries
                if entry.attack == attack and entry.sound and not np.isnan(entry.mean("der"))
            }
            if len(scores) > 1:
                order = sorted(set(scores.values()), reverse=True)
                places |= {(attack, name): order.index(s) + 1 for name, s in scores.items()}
        return places

    def averages(self) -> Iterator[Table]:
        """A table for each set of attacks on which some defense is sound, the largest first.

        It has every defense that is sound on these attacks. The number of seeds is that of the
        attack with the fewest.
        """
        covered: dict[str, list[Entry]] = {}
        for entry in self.entries:
            covered.setdefault(entry.defense, [])
            if entry.sound:
                covered[entry.defense].append(entry)
        attacks_of = {name: {entry.attack for entry in some} for name, some in covered.items()}
        sets = {tuple(sorted(attacks)): None for attacks in attacks_of.values() if attacks}
        for attacks in sorted(sets, key=len, reverse=True):
            yield self._averages(
                attacks,
                {
                    name: [entry for entry in covered[name] if entry.attack in attacks]
                    for name in covered
                    if attacks_of[name] >= {*attacks}
                },
            )
        if lost := [name for name, attacks in attacks_of.items() if not attacks]:
            yield self._lost(lost)

    def _averages(self, attacks: Sequence[str], covered: Mapping[str, list[Entry]]) -> Table:
        victims = [v for v in self.victims if v.attack in attacks and v.sound]
        lines = {UNDEFENDED: victims} if len(victims) == len(attacks) else {}
        lines |= dict(covered)
        records = []
        for defense, entries in lines.items():
            scores = {m: float(np.mean([e.mean(m) for e in entries])) for m in METRICS}
            seeds = sorted({seed for entry in entries for seed in entry.seeds})
            least = min(len(entry.seeds) for entry in entries)
            sources = "; ".join(dict.fromkeys(s for e in entries for s in e.runs["source"]))
            records.append({"Defense": defense, **scores, "n": least, "seeds": seeds, "s": sources})
        frame = DataFrame(records)
        text, ranks = DataFrame({"Defense": frame["Defense"]}), DataFrame(index=frame.index)
        for metric, title in METRICS.items():
            text[title] = [("-" if np.isnan(v) else f"{v:.2f}") for v in frame[metric]]
            line = frame.set_index("Defense")[[metric]].T
            ranks[title] = tables.rank(line, metric).reindex(columns=frame["Defense"]).to_numpy()[0]
        text["n"] = frame["n"].astype(str)
        text["Seeds"] = [", ".join(map(str, seeds)) for seeds in frame["seeds"]]
        text["Sources"] = frame["s"]
        over = f"Average over {len(attacks)} attacks" if len(attacks) > 1 else "Scores"
        what = f"Board {self.number}: {over} ({', '.join(attacks)}) in percent; best bold, second "
        what += f"underlined. {self.title}."
        notes = []
        if len({tuple(seeds) for seeds in frame["seeds"]}) > 1:
            notes.append("Not all entries have the same seeds.")
        return Table(what, text, frame, ranks, tuple(notes))

    def _lost(self, defenses: Sequence[str]) -> Table:
        text = DataFrame({"Defense": [*defenses]})
        what = f"Board {self.number}: without any sound, undisputed score. {self.title}."
        return Table(what, text, text, DataFrame())


def boards(rows: DataFrame, conflicts: Sequence[Conflict]) -> list[Board]:
    """The boards of merged, selected rows; the largest first."""
    disputes = [conflict.rows for conflict in conflicts if len(conflict.rows)]
    keys = {key for dispute in disputes for key in dispute["key"]}
    # A victim's scores are a part of the DER of all runs against it.
    keys |= {k for k, v in zip(rows["key"], rows["victim"], strict=True) if v in keys}
    entries = list(_entries(rows.assign(disputed=rows["key"].isin(keys))))
    for dispute in disputes:
        label = dispute["defense"] + " [" + dispute["source"] + "]"
        label = label.where(dispute["defense"] != UNDEFENDED, dispute["defense"])
        entries += _entries(dispute.assign(disputed=True, defense=label))
    victims = [entry for entry in entries if entry.defense == UNDEFENDED]
    by_setting: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.defense != UNDEFENDED:
            by_setting.setdefault(entry.setting, []).append(entry)
    order = sorted(by_setting, key=lambda setting: -len(by_setting[setting]))
    return [
        Board(n, s, by_setting[s], [v for v in victims if v.setting[:3] == s[:3]])
        for n, s in enumerate(order, start=1)
    ]


def _entries(rows: DataFrame) -> Iterator[Entry]:
    place = ["dataset", "model", "attack"]
    ratios = rows["poison_ratio"].groupby([rows[name] for name in place]).transform("max")
    texts = ratios.map(lambda share: "unknown" if pd.isna(share) else f"{100 * share:.3g} %")
    rows = rows.assign(ratio=texts, data=handed(rows).replace("", "no data"))
    columns = [*place, "defense", "ratio", "data", "rule"]
    for labels, runs in rows.groupby(columns, sort=False):
        dataset, model, attack, defense, ratio, data, rule = map(str, labels)
        setting = (dataset, model, ratio, data, rule)
        yield Entry(setting, attack, defense, runs, bool(runs["disputed"].any()))
