"""Measured scores beside published ones: which number, how far away, and whether that is noise."""

from __future__ import annotations

import numpy as np
import pytest
from pandas import DataFrame
from papers import LR, cell, layout, published, value
from scipy.stats import t
from table_rows import VICTIM, candidates, grid, row

from sau_bench.benchmark.published import PAPER, SCORES, Cell, read_paper
from sau_bench.benchmark.report.layout import comparison_table, published_tables
from sau_bench.benchmark.report.published import (
    TOLERANCE,
    Score,
    chosen,
    compare,
    half_width,
    leaderboards,
)
from sau_bench.benchmark.report.tables import der, select

SCORED = {
    "BadNets": {"No Defense": (0.9, 0.95), "SAU": (0.88, 0.01), "FT": (0.9, 0.4)},
    "LF": {"No Defense": (0.92, 0.97), "SAU": (0.9, 0.02), "FT": (0.91, 0.5)},
}
VALUES = {
    ("BadNets", "No Defense"): [value(91, 96)],
    ("BadNets", "SAU"): [value(89.5, 1.5, racc=88.0, der=95.0)],
    ("LF", "SAU"): [value(90.5, 14.0)],
}


def scores_of(compared, line, column):
    (found,) = (c for c in compared if (c.line, c.column) == (line, column))
    return found.scores


# --- the published side ------------------------------------------------------------------------


def test_the_own_table_counts_first_then_the_surer_reading_then_the_same_victims():
    side = published(
        {
            ("BadNets", "FP"): [
                value(1, 1, "BBv1-2022", "leaderboard"),
                value(2, 2, "SAU23-unchecked", "T3"),
                value(3, 3, "SAU23-ok", "T9", racc=33.0),
                value(4, 4, "BBv2-2025", "leaderboard", der=44.0),
            ],
            ("BadNets", "SAU"): [value(5, 5, "BBv1-2022"), value(6, 6, "SAU23-repaired", "T9")],
        }
    )
    found, sources = side.scores(layout(), cell("BadNets", "FP"))
    assert (found["acc"], found["racc"]) == (2, 33.0) and "der" not in found
    assert sources == ("SAU23-unchecked T3", "SAU23-ok T9")
    assert side.scores(layout(), cell("BadNets", "SAU"))[0]["acc"] == 6  # not the leaderboard's
    board = layout("leaderboard", kind="leaderboard")
    found, sources = side.scores(board, cell("BadNets", "FP"))
    assert (found["acc"], found["der"]) == (1, 44.0)


def test_a_der_that_is_not_printed_is_computed_against_the_same_source():
    side = published(
        {
            ("LF", "No Defense"): [value(90, 90, "BBv2-2025"), value(80, 100, "BBv1-2022")],
            ("LF", "EP"): [value(85, 10, "BBv2-2025")],
            ("LF", "FT"): [value(85, 10, "BBv1-2022")],
            ("BadNets", "FT"): [value(85, 10, "BBv1-2022")],
        }
    )
    board = layout("leaderboard", kind="leaderboard")
    expected = {"EP": der(0.85, 0.1, 0.9, 0.9), "FT": der(0.85, 0.1, 0.8, 1.0)}
    for defense, rating in expected.items():
        found = side.scores(board, cell("LF", defense))[0]
        assert found["der"] == pytest.approx(100 * float(rating))
    assert "der" not in side.scores(board, cell("BadNets", "FT"))[0]  # no undefended cell


def test_cells_that_were_selected_with_test_data_stand_apart():
    side = published(
        {
            ("BadNets", "No Defense"): [value(91, 95, "BBv1-2022")],
            ("BadNets", "ANP"): [
                value(84, 1, "BBv1-2022", "leaderboard", select="oracle"),
                value(90, 5, "SAU23-ok", "T3", select="fixed:0.4"),
            ],
        },
        [layout(defenses=("ANP",))],
    )
    runs = [VICTIM, *candidates((0.2, 0.88, 0.6, 1.0), (0.4, 0.85, 0.3, 1.0))]
    runs = DataFrame(runs).assign(select="fixed:0.2")
    runs.loc[0, "select"] = ""
    made = published_tables(side, runs, select(runs, {}))
    assert list(made) == ["table3", "oracle"]
    (ours, theirs, _) = made["table3"].text[("ANP", "ACC")]
    assert (ours, theirs) == ("88.00", "90.00")
    assert "selection fixed:0.2 (fixed:0.4)" in made["table3"].markdown()
    assert made["oracle"].text[("ANP", "ACC")].tolist()[:2] == ["85.00", "84.00"]
    assert made["oracle"].caption.endswith("selection: oracle, which looks at test data.")
    assert "selection" not in "".join(made["oracle"].notes)


def test_an_average_is_the_printed_one_or_the_mean_of_the_same_attacks():
    values = {
        ("BadNets", "SAU"): [value(90, 2)],
        ("LF", "SAU"): [value(80, 4, racc=3.0)],
        ("Average", "SAU"): [value(70, 7)],
    }
    side, lines = published(values), [cell("BadNets"), cell("LF")]
    assert side.average(layout(), "SAU", lines) == {"acc": 70, "asr": 7}
    assert side.average(layout(), "SAU", lines[:1]) == {"acc": 90, "asr": 2}
    other = layout("T16")  # whose average is not printed
    assert side.average(other, "SAU", lines) == {"acc": 85, "asr": 3}
    assert side.average(other, "FT", lines) == {}


# --- whether a difference is noise -------------------------------------------------------------


def test_a_single_run_is_compared_with_a_tolerance():
    assert half_width(np.nan, 1, False, "acc") == TOLERANCE[False]["acc"]
    assert half_width(np.nan, 1, True, "asr_2") == TOLERANCE[True]["asr"]
    found = compare(published(VALUES), layout(), grid(SCORED))
    badnets, lf = (scores_of(found, attack, "SAU") for attack in ("BadNets", "LF"))
    assert (badnets["acc"].difference, badnets["acc"].verdict) == (pytest.approx(-1.5), "within")
    assert (lf["asr"].difference, lf["asr"].verdict) == (pytest.approx(-12), "outside")
    assert lf["racc"].verdict == "" and scores_of(found, "LF", "FT")["acc"].verdict == ""


@pytest.mark.parametrize(("off", "verdict"), [(2.99, "within"), (3.01, "outside")])
def test_several_seeds_are_compared_with_their_spread(off, verdict):
    """The interval in which one more run lies, checked against scipy's t distribution."""
    runs = [
        row("BadNets", d, acc, 0.5, seed=seed)
        for seed, acc in enumerate((0.89, 0.90, 0.91))
        for d in ("No Defense", "SAU")
    ]
    half = t.ppf(0.975, 2) * 1.0 * (1 + 1 / 3) ** 0.5  # the standard deviation is one point
    side = published({("BadNets", "SAU"): [value(90 + off * half / 3, 50)]})
    score = scores_of(compare(side, layout(), select(DataFrame(runs), {})), "BadNets", "SAU")["acc"]
    assert (score.n, score.std) == (3, pytest.approx(1.0))
    assert score.half == pytest.approx(half) and score.verdict == verdict


def test_a_difference_below_the_printed_digits_is_none():
    assert Score(50.0, 0.0, 3, 50.004, 0.0).verdict == "within"
    assert Score(50.0, 0.0, 3, 50.01, 0.0).verdict == "outside"


def test_unsound_seeds_are_not_compared():
    runs = [row("BadNets", "No Defense", 0.9, 0.9, seed=s) for s in (0, 1)]
    runs += [row("BadNets", "SAU", 0.8, 0.1), row("BadNets", "SAU", 0.1, 0, seed=1)]
    runs[-1]["status"] = "diverged"
    (found,) = (
        c
        for c in compare(published(VALUES), layout(), select(DataFrame(runs), {}))
        if c.column == "SAU"
    )
    assert (found.state, found.scores["acc"].n) == ("diverged", 1)
    assert found.scores["acc"].mean == pytest.approx(80)


# --- which tables ------------------------------------------------------------------------------


def test_a_report_has_the_fewest_tables_that_hold_every_run():
    wide = layout("T3", ("FT", "SAU"))
    part = layout("T10", ("SAU",))  # all of it is in T3
    other = layout("T13", ("SAU", "Spatial SAU"))
    side = published({}, [wide, part, other])
    selected = grid(SCORED)
    assert chosen(side, selected) == [wide]
    assert chosen(side, selected[selected["defense"] != "FT"]) == [part]  # of which more was run
    spatial = {a: line | {"Spatial SAU": (0.9, 0.1)} for a, line in SCORED.items()}
    assert chosen(side, grid(spatial)) == [wide, other]
    assert chosen(side, grid({"WaNet": SCORED["LF"]})) == []


def test_labels_that_are_one_published_cell_have_columns_of_their_own():
    runs = {
        "BadNetsSAU (lr=1)0": [(cell("BadNets", "SAU"), ())],
        "BadNetsSAU (lr=2)0": [(cell("BadNets", "SAU"), (LR,))],
        "BadNetsNo Defense0": [(cell("BadNets", "No Defense"), ())],
    }
    line = {"No Defense": (0.9, 0.9), "SAU (lr=1)": (0.89, 0.1), "SAU (lr=2)": (0.8, 0)}
    side = published(VALUES, runs=runs)
    table = comparison_table(side, layout(), grid({"BadNets": line}))
    assert table.text[("SAU (lr=1)", "ACC")].tolist() == ["89.00", "89.50", "-0.50"]
    assert table.text[("SAU (lr=2)", "ACC")].tolist() == ["80.00", "89.50", "-9.50*"]
    assert "- defenses: SAU (lr=2) lr 0.5 (0.25)" in table.notes


# --- what is shipped ---------------------------------------------------------------------------


def test_the_shipped_numbers_are_percentages_of_known_sources():
    paper = read_paper()
    assert paper is not None
    found = [v for values in paper.values.values() for v in values]
    sources = {"SAU23-ok", "SAU23-repaired", "SAU23-unchecked"}
    sources |= {"BBv1-2022", "BBv2-2025", "BBcsv-2024"}
    assert {v.source for v in found} == sources  # later papers have victims of their own
    assert all(0 <= score <= 100 for v in found for score in v.scores.values())
    assert all(set(v.scores) <= set(SCORES) for v in found)
    tables = {v.table for v in found if v.source in {"SAU23-ok"}}
    assert {"T3", "T4", "T9", "T10", "T15", "T16", "T21", "T22", "T24"} <= tables
    numbers = {layout.table for layout in paper.layouts}
    assert numbers == {f"T{n}" for n in range(3, 29)} - {"T7", "T8", "T11", "T14", "T22"}


def test_anp_of_the_leaderboards_was_selected_with_test_data():
    paper = read_paper()
    assert paper is not None
    rules = {
        (v.source[:2], v.select)
        for c, values in paper.values.items()
        for v in values
        if c.defense == "ANP"
    }
    assert rules == {("SA", "fixed:0.4"), ("BB", "oracle")}


def test_the_leaderboards_ep_cells_are_there():
    paper = read_paper()
    assert paper is not None
    for dataset in ("CIFAR-10", "GTSRB", "Tiny ImageNet"):
        place = Cell(dataset, "PreAct-ResNet18", 0.1, "Blended", "EP")
        boards = [v for v in paper.values[place] if v.source == "BBv2-2025"]
        assert len(boards) == 1 and "one decimal" in boards[0].table
    board, oracle = leaderboards(paper, [one for one in paper.layouts if one.table == "T3"])
    assert "EP" in board.defenses and oracle.defenses == ("ANP",)


def test_the_trap_of_lf_on_vgg19_with_batch_norm_is_never_a_target():
    """Its published pattern does nothing: ASR 14 undefended."""
    paper = read_paper()
    assert paper is not None
    assert not any((c.network, c.attack) == ("VGG19-BN", "LF") for c in paper.values)


def test_without_the_folder_there_are_no_published_numbers(tmp_path):
    assert read_paper(tmp_path) is None and (PAPER / "README.md").is_file()
