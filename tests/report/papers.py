"""Published numbers, small enough to check by hand, and runs that are their cells."""

from __future__ import annotations

from sau_bench.benchmark.published import AVERAGE, Cell, Departure, Layout, Paper, Reproduced, Value
from sau_bench.benchmark.report.published import Published

PLACE = ("CIFAR-10", "PreAct-ResNet18", 0.1)
ATTACKS = ("BadNets", "LF")


def cell(attack, defense=""):
    return Cell(*PLACE, attack, defense)


def layout(table="T3", defenses=("FT", "SAU"), attacks=ATTACKS, **more):
    rows = tuple((attack, cell(attack)) for attack in attacks)
    return Layout(table, "section 9", rows, tuple(defenses), **more)


def value(acc, asr, source="SAU23-ok", table="T3", select="", **more):
    return Value(source, table, select, {"acc": acc, "asr": asr, **more})


def published(values, layouts=None, runs=None, seconds=None, norms=(), names=ATTACKS):
    """values: {(attack, defense): published scores}. runs: by key the (cell, departures) of a job;
    by default those of `table_rows.row`, whose keys are attack, defense and seed."""
    layouts = layouts or [layout()]
    by_cell = {cell(*name): tuple(found) for name, found in values.items()}
    cells = {c for one in layouts for c in one.cells()} | {*by_cell}
    identities = {c: f"{c.attack}|{c.defense}" for c in cells if c.attack != AVERAGE}
    if runs is None:
        runs = {f"{c.attack}{c.defense}{s}": [(c, ())] for c in identities for s in range(3)}
    found = {key: {identities[c]: fields for c, fields in of_key} for key, of_key in runs.items()}
    names = {"attacks": dict.fromkeys(names)}
    paper = Paper(names, tuple(layouts), by_cell, seconds or {}, tuple(norms))
    return Published(paper, Reproduced(identities, found))


LR = Departure("defense", "lr", 0.5, 0.25)
