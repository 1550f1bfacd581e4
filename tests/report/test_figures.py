"""Figures of the smallest and of large grids: what they show, that everything can be read, and that
files do not change."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas import DataFrame

from sau_bench.benchmark.report import canvas, figures
from sau_bench.benchmark.report.canvas import COLUMN, PAGE, TALLEST, save
from sau_bench.benchmark.report.critical import critical_difference
from sau_bench.benchmark.report.significance import paired_tests
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.report.write import report
from sau_bench.benchmark.rows import COLUMNS

ATTACKS = ["BadNets", "Blended", "Input-Aware", "LF", "SIG", "SSBA", "WaNet"]
ATTACKS += ["Low-frequency perturbation attack of the year 2021", "SIG (delta=40, frequency=6)"]
DEFENSES = ["SAU", "FT", "FP", "NAD", "NC", "ANP", "EP", "i-BAU", "FT-SAM", "ABL"]
LONG = [f"Our new defense {n:02d} (epochs={n}, lr=0.{n:02d}01)" for n in range(20)]


def rows(attacks: int, defenses: list[str], seeds: int = 1, asr: float | None = None) -> DataFrame:
    """A synthetic grid; from four attacks on Input-Aware has a collapsed victim, and one cell of
    ANP (the only method with candidates) does not apply."""
    draw = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    more = [f"BadNets (value=0.{number})" for number in range(1, attacks - len(ATTACKS) + 1)]
    for attack in [*ATTACKS[:attacks], *more]:
        for seed in range(seeds):
            victim = f"{attack}{seed}"
            cell = dict.fromkeys(COLUMNS, "") | {
                "dataset": "CIFAR-10", "model": "PreAct-ResNet18 (width 16)", "attack": attack,
                "seed": seed, "victim": victim, "poison_ratio": 0.1, "status": "ok", "value": 0.4,
            }  # fmt: skip
            bad = attack == "Input-Aware" and attacks > 3
            none = cell | {"defense": "No Defense", "key": victim, "kind": "victim", "step": 0}
            none |= {"acc": 0.1 if bad else 0.93, "asr": 1.0, "racc": 0.0}
            made.append(none | {"status": "collapsed" if bad else "ok"})
            for defense in defenses:
                run = cell | {"defense": defense, "key": victim + defense, "select": "last"}
                for step in (1, 2, 3):
                    score = {"acc": draw.uniform(0.8, 0.93), "asr": draw.uniform(), "racc": 0.5}
                    score["asr"] = score["asr"] if asr is None else asr
                    kind = "candidates" if defense == "ANP" else "rounds"
                    made.append(run | score | {"kind": kind, "step": step})
                if (attack, defense) == ("LF", "ANP"):
                    gone = {"acc": np.nan, "asr": np.nan, "status": "not applicable"}
                    made[-3:] = [made[-1] | gone]
    return DataFrame(made)


def drawn(grid: DataFrame) -> dict[str, Figure]:
    """Every figure, the diagram of ranks among them where there is one; further pages numbered."""
    selected, looks = select(grid, {}), figures.looks(grid)
    made = {
        f"{name} {number}" if number > 1 else name: figure
        for name, sheets in figures.draw(grid, selected, looks).items()
        for number, figure in enumerate(sheets, start=1)
    }
    if tests := paired_tests(selected):
        made["critical"] = critical_difference(tests, looks)
    return made


def texts(figure: Figure) -> list[tuple[Text, Any]]:
    """Everything that is written, with its box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in found if text.get_visible()]


def misplaced(figure: Figure, written: list[tuple[Text, Any]]) -> list[str]:
    """Texts that are cut at the edge of a figure or lie over each other, by more than a pixel."""
    words = [text.get_text() for text, _ in written]
    x0, y0, x1, y1 = np.array([box.extents for _, box in written]).T
    page = figure.bbox
    cut = (x0 < -1) | (y0 < -1) | (x1 > page.x1 + 1) | (y1 > page.y1 + 1)
    across = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    up = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    over = np.argwhere(np.triu((across > 1) & (up > 1), k=1))
    wrong = [f"{words[i]!r} is cut" for i in np.flatnonzero(cut)]
    return wrong + [f"{words[i]!r} over {words[j]!r}" for i, j in over]


@pytest.mark.parametrize(
    ("attacks", "defenses", "seeds"),
    [
        (1, ["SAU"], 1),
        (1, LONG, 3),
        (2, DEFENSES[:3], 2),
        (4, LONG[:1], 1),
        (7, DEFENSES[:9], 1),
        (9, [*DEFENSES, *LONG[:10]], 2),
        (14, [*DEFENSES, *LONG[:10]], 1),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, list) else str(value),
)
def test_all_texts_can_be_read_at_the_size_of_a_paper(attacks, defenses, seeds):
    made = drawn(rows(attacks, defenses, seeds))
    assert {"scatter", "bars", "der", "curves"} <= made.keys()
    assert ("critical" in made) is (attacks * seeds > 10)
    for name, figure in made.items():
        assert figure.get_figwidth() in (COLUMN, PAGE), name
        assert figure.get_figheight() <= TALLEST, name
        written = texts(figure)
        assert misplaced(figure, written) == [], name
        assert min(text.get_fontsize() for text, _ in written) >= 6, name
        every = " ".join(" ".join(text.get_text().split()) for text, _ in written)
        missing = [defense for defense in defenses if defense not in every]
        assert missing == (["ANP"] if name == "critical" and "ANP" in defenses else []), name


def test_a_text_that_is_cut_or_covered_is_found():
    figure = Figure(figsize=(2, 2))
    for x, y, text in ((0.1, 0.5, "first"), (0.12, 0.5, "second"), (0.9, 0.9, "too long")):
        figure.text(x, y, text)
    assert misplaced(figure, texts(figure)) == ["'too long' is cut", "'first' over 'second'"]


def test_figures_show_the_grid():
    made = drawn(rows(7, DEFENSES, 2))
    panels = {"scatter": 7, "bars": 14, "der": 1, "curves": 14, "critical": 1}
    assert {name: len(figure.axes) for name, figure in made.items()} == panels
    legend = [text.get_text() for text in made["scatter"].legends[0].get_texts()]
    assert legend == ["No Defense", *DEFENSES]
    heat = made["der"].axes[0]
    assert [text.get_text() for text in heat.get_yticklabels()] == DEFENSES
    heads = [text.get_text() for text in heat.get_xticklabels()]
    assert heads[0] == "BadNets" and heads[-1] == "Average" and len(heads) == 8


@pytest.mark.parametrize("seeds", [1, 3])
def test_spread_is_a_standard_deviation_in_every_figure_and_named(seeds):
    grid = rows(1, ["SAU"], seeds)
    made, last = drawn(grid), grid[(grid["defense"] == "SAU") & (grid["step"] == 3)]
    mean, std = 100 * last["asr"].mean(), 100 * last["asr"].std()
    named = [
        "mean ± standard deviation over n = 3 seeds" in said(figure) for figure in made.values()
    ]
    assert named == [seeds > 1] * len(made)
    ends = {
        "scatter": [line.get_ydata() for line in made["scatter"].axes[0].get_lines()],
        "bars": [line.get_xdata() for line in made["bars"].axes[1].get_lines()],
        "curves": [line.get_ydata() for line in made["curves"].axes[1].get_lines()],
    }
    for name, lines in ends.items():
        there = any(np.allclose(line, [mean - std, mean + std]) for line in lines if len(line) == 2)
        assert there is (seeds > 1), name
    cell = made["der"].axes[0].texts[0].get_text()
    assert ("±" in cell) is (seeds > 1)


def said(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_a_metric_has_the_same_limits_everywhere():
    made = drawn(rows(7, DEFENSES))
    acc = {axis.get_xlim() for axis in made["scatter"].axes + made["bars"].axes[:7]}
    acc |= {axis.get_ylim() for axis in made["curves"].axes[:7]}
    asr = {axis.get_xlim() for axis in made["bars"].axes[7:]}
    asr |= {axis.get_ylim() for axis in made["scatter"].axes + made["curves"].axes[7:]}
    assert len(acc) == len(asr) == 1
    ((low, high),) = acc
    assert 50 < low < 80 and high > 93  # differences of ACC fill the axis


def test_a_score_of_zero_is_a_whole_mark():
    axis = drawn(rows(1, DEFENSES[:3], asr=0.0))["bars"].axes[1]
    low, _ = axis.get_xlim()
    marks = [line for line in axis.get_lines() if line.get_marker() not in ("None", None)]
    assert [float(line.get_xdata()[0]) for line in marks] == [100, 0, 0, 0]
    pixels = axis.transData.transform([[0, 0], [low, 0]])[:, 0]
    assert pixels[0] - pixels[1] >= 2.5 / 72 * 200 * 0.5  # half a mark lies inside the axis


def test_axes_say_which_direction_is_better():
    made = drawn(rows(2, DEFENSES[:2]))
    for name in ("scatter", "bars", "curves"):
        words = re.sub(r"[\n,]+ ?", " ", " ".join(t.get_text() for t in made[name].texts))
        assert "ACC (%) higher is better" in words and "ASR (%) lower is better" in words
    assert "higher (darker) is better" in said(made["der"])


def test_files_are_for_print_have_no_date_and_do_not_change(tmp_path):
    grid = rows(2, DEFENSES[:2])
    for folder in ("a", "b"):
        for name, figure in drawn(grid).items():
            save(figure, tmp_path / folder / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 8
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes(), name
        assert b"CreationDate" not in content and b"Software" not in content
        if name.endswith(".pdf"):  # TrueType fonts, embedded
            assert b"/FontFile2" in content and b"/Type3" not in content
        else:
            density = content.index(b"pHYs") + 4
            assert struct.unpack(">I", content[density : density + 4])[0] == round(200 / 0.0254)
            width = struct.unpack(">I", content[16:20])[0] / 200
            assert width in (COLUMN, PAGE)


def test_a_defense_looks_the_same_in_all_figures():
    grid = rows(1, DEFENSES)
    looks, made = figures.looks(grid), drawn(grid)
    for name in ("scatter", "curves"):
        lines = made[name].legends[0].get_lines()
        shown = {line.get_label(): (line.get_color(), line.get_marker()) for line in lines}
        shown.pop("No Defense")
        expected = {*DEFENSES} - ({"ANP"} if name == "curves" else set())  # candidates: no rounds
        assert shown == {defense: looks[defense][:2] for defense in expected}, name
    marks = [line for line in made["bars"].axes[0].get_lines() if line.get_marker() != "None"]
    assert [(m.get_color(), m.get_marker()) for m in marks] == [look[:2] for look in looks.values()]


def test_cells_without_a_sound_score_are_told_apart():
    made = drawn(rows(4, DEFENSES[:6]))
    heat = [text.get_text() for text in made["der"].axes[0].texts]
    assert heat.count("n/a") == 1 and heat.count("-") == 1  # ANP against LF, ANP's average
    words = [text.get_text() for axis in made["bars"].axes for text in axis.texts]
    assert words == ["n/a", "n/a"]  # of ACC and ASR
    assert "Without a mark: ANP (LF)" in said(made["scatter"])
    assert [axis.get_title() for axis in made["scatter"].axes][2] == "Input-Aware¶"
    for name, place in (("scatter", 2), ("bars", 2)):
        lines = made[name].axes[place].get_lines()
        hollow = [line for line in lines if line.get_markerfacecolor() == "none"]
        assert len(hollow) == 1 and "Hollow: diverged or collapsed" in said(made[name]), name


def test_variants_are_named_by_what_differs():
    made = drawn(rows(1, ["SAU (epochs=20)", "SAU (epochs=12, lr=0.0004)"]))
    for name in ("scatter", "curves"):
        legend = [text.get_text() for text in made[name].legends[0].get_texts()]
        assert "SAU (epochs=20, lr=default)" in legend


def test_curves_start_at_the_undefended_level():
    axis = drawn(rows(1, DEFENSES[:1]))["curves"].axes[0]
    level, line = axis.lines
    assert level.get_linestyle() == "--" and level.get_ydata()[0] == pytest.approx(93.0)
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, pytest.approx(93.0))


def test_without_two_rounds_there_are_no_curves():
    grid = rows(1, DEFENSES[:6])
    assert "curves" not in drawn(grid[grid["defense"].isin(["No Defense", "ANP"])])


def test_a_page_may_hold_attacks_without_curves(monkeypatch):
    made = rows(2, ["SAU"])
    made = made[(made["attack"] != "BadNets") | (made["kind"] != "rounds")]
    monkeypatch.setattr(canvas, "TALLEST", 0.0)  # a page for each attack
    drawn = figures.draw(made, select(made, {}), figures.looks(made))["curves"]
    lines = [[len(axis.get_lines()) for axis in figure.axes] for figure in drawn]
    assert lines == [[1, 1], [2, 2]]  # the undefended model alone, and with SAU


def test_a_figure_taller_than_a_page_has_several_files_as_long_as_it_is(tmp_path, monkeypatch):
    made = rows(5, ["SAU"]).assign(device="test device", versions="test 1.0", seconds=1.0)
    made.to_csv(tmp_path / "rows.csv", index=False)
    whole = {"bars.pdf", "bars.png"}

    def files() -> set[str]:
        report(tmp_path, {})
        text = (tmp_path / "report.md").read_text()
        found = {file.name for file in (tmp_path / "figures").glob("bars*")}
        assert all(f"(figures/{name})" in text for name in found if name.endswith(".png"))
        return found

    assert files() == whole
    heights = [figure.get_figheight() for figure in drawn(made).values()]
    monkeypatch.setattr(canvas, "TALLEST", 0.0)  # a page for each attack
    pages = {f"bars-{n}.{suffix}" for n in range(2, 6) for suffix in ("pdf", "png")}
    assert files() == whole | pages
    axes = [axis for name, figure in drawn(made).items() if "bars" in name for axis in figure.axes]
    assert [axis.get_title().rstrip("¶") for axis in axes[::2]] == ATTACKS[:5]
    monkeypatch.setattr(canvas, "TALLEST", max(heights))
    assert files() == whole
