"""Figures of the smallest and of a full grid: what they show, and that files do not change."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from pandas import DataFrame

from sau_bench.benchmark.report import figures
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.rows import COLUMNS

ATTACKS = ["BadNets", "Blended", "Input-Aware", "LF", "SIG", "SSBA", "WaNet"]
DEFENSES = ["SAU", "FT", "FP", "NAD", "NC", "ANP", "EP", "i-BAU", "FT-SAM", "ABL"]


def rows(attacks: int, defenses: int, seeds: int = 1) -> DataFrame:
    """A synthetic grid; from four attacks on Input-Aware has a collapsed victim, and one cell of
    ANP (the only method with candidates) does not apply."""
    draw = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for attack in ATTACKS[:attacks]:
        for seed in range(seeds):
            victim = f"{attack}{seed}"
            cell = dict.fromkeys(COLUMNS, "") | {
                "dataset": "CIFAR-10", "model": "net", "attack": attack, "seed": seed,
                "victim": victim, "poison_ratio": 0.1, "status": "ok", "value": 0.4,
            }  # fmt: skip
            bad = attack == "Input-Aware" and attacks > 3
            none = cell | {"defense": "No Defense", "key": victim, "kind": "victim", "step": 0}
            none |= {"acc": 0.1 if bad else 0.93, "asr": 1.0, "racc": 0.0}
            made.append(none | {"status": "collapsed" if bad else "ok"})
            for defense in DEFENSES[:defenses]:
                run = cell | {"defense": defense, "key": victim + defense, "select": "last"}
                for step in (1, 2, 3):
                    score = {"acc": draw.uniform(0.8, 0.93), "asr": draw.uniform(), "racc": 0.5}
                    kind = "candidates" if defense == "ANP" else "rounds"
                    made.append(run | score | {"kind": kind, "step": step})
                if (attack, defense) == ("LF", "ANP"):
                    gone = {"acc": np.nan, "asr": np.nan, "status": "not applicable"}
                    made[-3:] = [made[-1] | gone]
    return DataFrame(made)


def drawn(grid: DataFrame) -> dict[str, Figure]:
    return figures.draw(grid, select(grid, {}), figures.looks(grid))


@pytest.mark.parametrize(("attacks", "defenses", "seeds"), [(1, 1, 1), (7, 10, 1), (2, 3, 2)])
def test_figures_show_the_grid(attacks, defenses, seeds, tmp_path):
    made = drawn(rows(attacks, defenses, seeds))
    panels = {
        "scatter": attacks,
        "bars": 2,
        "der": 2,
        "curves": 2 * attacks,
    }  # der: with colour bar
    assert {name: len(figure.axes) for name, figure in made.items()} == panels
    legend = [text.get_text() for text in made["scatter"].legends[0].get_texts()]
    several = ["± std, n = 2"] * (seeds == 2)
    assert legend == ["No Defense", *DEFENSES[:defenses], *several]
    assert len(made["scatter"].axes[0].lines) == defenses + 1
    whiskers = made["scatter"].axes[0].collections
    assert len(whiskers) == 2 * (defenses + 1) * (seeds == 2)
    assert any("±" in text.get_text() for text in made["der"].axes[0].texts) == (seeds == 2)
    labels = [text.get_text() for text in made["der"].axes[0].get_yticklabels()]
    assert labels[0] == "BadNets" and labels[-1] == "Average" and len(labels) == attacks + 1
    for name, figure in made.items():
        figures.save(figure, tmp_path / name)
    for name, figure in made.items():  # nothing outside the page, no label over another
        box, page = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 > -0.02 and box.y0 > -0.02, name
        assert box.x1 < page[0] + 0.02 and box.y1 < page[1] + 0.02, name
        for axis in figure.axes:
            ticks = [t.get_window_extent() for t in axis.get_xticklabels() if t.get_text()]
            inside = [t for t in ticks if axis.bbox.x0 - 9 < t.x0 + t.width / 2 < axis.bbox.x1 + 9]
            assert all(a.x1 <= b.x0 for a, b in pairwise(inside)), name


def test_files_have_no_date_and_do_not_change(tmp_path):
    grid = rows(2, 2)
    for folder in ("a", "b"):
        for name, figure in drawn(grid).items():
            figures.save(figure, tmp_path / folder / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 8
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes(), name
        assert b"CreationDate" not in content and b"Software" not in content


def test_a_defense_keeps_its_look_and_looks_differ():
    grid = rows(1, 10)
    looks = figures.looks(grid)
    assert len(set(looks.values())) == 11
    made = drawn(grid)
    colours = {
        line.get_label(): line.get_color() for line in made["scatter"].legends[0].get_lines()
    }
    curve = {line.get_label(): line.get_color() for line in made["curves"].legends[0].get_lines()}
    assert curve.keys() == colours.keys() - {"ANP"}  # candidates are no rounds
    assert all(colours[name] == curve[name] == looks[name].colour for name in curve)


def test_cells_without_a_sound_score_are_told_apart():
    made = drawn(rows(4, 6))
    heat = [text.get_text() for text in made["der"].axes[0].texts]
    assert heat.count("n/a") == 1 and heat.count("-") == 1  # ANP against LF, ANP's average
    assert [text.get_text() for text in made["bars"].axes[0].texts] == ["n/a"]
    assert [axis.get_title() for axis in made["scatter"].axes][2] == "Input-Aware¶"
    hollow = [
        line for line in made["scatter"].axes[2].lines if line.get_markerfacecolor() == "none"
    ]
    assert len(hollow) == 1
    hatched = [bar for bar in made["bars"].axes[0].patches if bar.get_hatch()]
    assert len(hatched) == 1


def test_curves_start_at_the_undefended_level():
    axis = drawn(rows(1, 1))["curves"].axes[0]
    level, line = axis.lines
    assert level.get_linestyle() == "--" and level.get_ydata()[0] == pytest.approx(93.0)
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, pytest.approx(93.0))


def test_without_rounds_there_are_no_curves():
    grid = rows(1, 6)
    assert "curves" not in drawn(grid[grid["defense"].isin(["No Defense", "ANP"])])
