"""Rows of several sources: which are comparable, what is a conflict, and what is averaged."""

from __future__ import annotations

import pandas as pd
import pytest
from pandas import DataFrame
from table_rows import row

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report.boards import boards
from sau_bench.benchmark.report.leaderboard import leaderboard
from sau_bench.benchmark.report.merge import Setting, merged
from sau_bench.benchmark.report.tables import select

SCORES = {"FT": (0.9, 0.4), "SAU": (0.85, 0.1)}


def source(*defenses, attacks=("BadNets", "LF"), seed=0, key="", scores=SCORES, **changes):
    """Selected rows of some defenses and their victims; `key` is a part of every key."""
    rows = []
    for attack in attacks:
        victim = f"{key}{attack}No Defense{seed}"
        rows.append(row(attack, "No Defense", 0.9, 1.0, seed=seed, key=victim, victim=victim))
        for defense in defenses:
            own = {"seed": seed, "key": f"{key}{attack}{defense}{seed}", "victim": victim}
            rows.append(row(attack, defense, *scores[defense], **own | changes))
    return select(DataFrame(rows), {})


def found(settings=None, **sources):
    return boards(*merged(sources, settings or {}))


def texts(settings=None, **sources):
    return [conflict.text for conflict in merged(sources, settings or {})[1]]


def entries(board):
    return {(entry.attack, entry.defense): entry for entry in board.entries}


def known(*sources, **fields):
    """The settings of all jobs of some sources: one setting for each label."""
    rows = pd.concat(sources)
    return {
        key: Setting({"attack": attack} | fields, {} if defense == "No Defense" else {"d": defense})
        for key, attack, defense in zip(rows["key"], rows["attack"], rows["defense"], strict=True)
    }


def test_defenses_of_two_people_on_the_same_victims_are_on_one_board():
    (board,) = found(a=source("FT"), b=source("SAU"))
    assert {name for _, name in entries(board)} == {"FT", "SAU"}
    assert board.ranks()[("LF", "SAU")] == 1 and board.ranks()[("LF", "FT")] == 2
    (table,) = board.averages()
    assert table.text["Defense"].tolist() == ["No Defense", "FT", "SAU"]
    assert table.text["DER"].tolist() == ["-", "80.00", "92.50"]
    assert table.text["Sources"].tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"clean_ratio": 0.01}, "data of the defense"),
        ({"uses": "train"}, "data of the defense"),
        ({"poison_ratio": 0.05}, "poisoning ratio"),
        ({"model": "VGG19"}, "network"),
        ({"dataset": "GTSRB"}, "dataset"),
    ],
)
def test_what_differs_makes_a_board_of_its_own_and_is_named(changes, differs):
    other = source("SAU", key="other")
    whole = {"model", "dataset", "poison_ratio"} & changes.keys()
    other = (
        other.assign(**changes)
        if whole
        else other.assign(
            **{n: other[n].where(other["kind"] == "victim", v) for n, v in changes.items()}
        )
    )
    ratio = {"ratio": changes["poison_ratio"]} if "poison_ratio" in changes else {}
    settings = known(source("FT")) | known(other, **ratio)
    first, second = found(settings, a=source("FT"), b=other)
    assert second.differs(first).startswith(differs)
    assert second.differs(first).count("(") == 1
    assert not set(entries(first)) & set(entries(second))


def test_other_selection_is_another_board():
    chosen = source("SAU", kind="candidates", select="oracle", value=1.0)
    assert (chosen.loc[chosen["defense"] == "SAU", "rule"] == "oracle").all()
    first, second = found(a=source("FT"), b=chosen)
    assert second.differs(first) == "selection oracle (last)"


def test_the_same_label_without_a_common_job_or_config_is_not_compared():
    first, second = source("FT"), source("FT", key="theirs")
    (board,) = found(a=first, b=second)
    assert {attack for attack, _ in entries(board)} == {"BadNets", "LF", "BadNets [b]", "LF [b]"}
    lines = texts(a=first, b=second)
    assert any("BadNets" in line and "no config says" in line for line in lines)
    for table in board.averages():  # the victim and one of the two
        assert len(table.text) == 2


def test_configs_say_that_seeds_of_two_people_are_of_one_setting():
    first, second = source("FT", seed=0), source("FT", seed=1, scores={"FT": (0.8, 0.4)})
    (board,) = found(known(first, second), a=first, b=second)
    entry = entries(board)["LF", "FT"]
    assert entry.seeds == (0, 1) and entry.mean("acc") == pytest.approx(85)
    assert entry.those("source") == "a; b" and not entry.disputed
    assert texts(known(first, second), a=first, b=second) == []


def test_fields_that_differ_are_named():
    first, second = source("FT"), source("FT", key="theirs")
    settings = known(first, lr=0.1) | known(second, lr=0.2)
    lines = texts(settings, a=first, b=second)
    assert len(lines) == 2 and all("lr 0.1 / 0.2" in line for line in lines)


def test_one_thing_under_two_labels_has_the_first_one():
    second = source("SAU").replace({"BadNets": "BadNets (ratio=0.1)"})
    second["defense"] = second["defense"].replace("SAU", "SAU (epochs=2)")
    (board,) = found(a=source("SAU"), b=second)
    assert set(entries(board)) == {("BadNets", "SAU"), ("LF", "SAU")}


def test_the_same_numbers_from_two_sources_count_once_and_are_no_conflict():
    assert texts(a=source("FT"), b=source("FT")) == []
    (board,) = found(a=source("FT"), b=source("FT"))
    assert [len(entry.runs) for entry in board.entries] == [1, 1]


def test_other_numbers_of_one_job_are_told_and_neither_averaged_nor_ranked():
    again = source("FT", "SAU", attacks=["LF"], scores=SCORES | {"FT": (0.7, 0.4)})
    first = source("FT", "SAU")
    (line,) = texts(a=first, b=again)
    assert "LF / FT, seed 0" in line and "a and b" in line and "ACC 90.00 / 70.00" in line
    (board,) = found(a=first, b=again)
    both = entries(board)
    assert both["LF", "FT"].disputed and both["LF", "FT [b]"].disputed
    assert both["LF", "FT"].text("acc") == "90.00?" and both["LF", "FT [b]"].text("acc") == "70.00?"
    assert ("LF", "FT") not in board.ranks() and not both["BadNets", "FT"].disputed
    whole = next(iter(board.averages()))
    assert whole.text["Defense"].tolist() == ["No Defense", "SAU"]


def test_a_disputed_victim_disputes_the_runs_against_it():
    again = source("SAU")
    victims = again["kind"] == "victim"
    again.loc[victims, "acc"] = 0.8
    (board,) = found(a=source("FT", "SAU"), b=again)
    assert all(entry.disputed for entry in board.entries)


def test_defenses_that_lack_attacks_are_averaged_over_those_they_have():
    (board,) = found(a=source("FT"), b=source("SAU", attacks=["LF"]))
    whole, part = board.averages()
    assert whole.text["Defense"].tolist() == ["No Defense", "FT"]
    assert part.text["Defense"].tolist() == ["No Defense", "FT", "SAU"]
    assert "(LF)" in part.caption


def test_files_say_the_same_and_escape_what_they_hold(tmp_path):
    bad = "<script>x</script>"
    for name, defense in (("a", "FT"), ("b", bad)):
        rows = source(defense, scores=SCORES | {bad: (0.8, 0.2)})
        (tmp_path / name).mkdir()
        rows.drop(columns=["rule", "der", "victim_status"]).to_csv(
            tmp_path / name / "rows.csv", index=False
        )
    files = {name: tmp_path / name / "rows.csv" for name in "ab"}
    written = leaderboard(files, {}, {}, tmp_path / "out")
    page, text, table = (file.read_text("utf-8") for file in written)
    assert bad not in page and "&lt;script&gt;x" in page
    assert "Board 1" in text and bad in text
    frame = pd.read_csv(written[2])
    assert len(frame) == 6 and set(frame["sources"]) == {"a", "b"}
    assert frame.loc[frame["defense"] == "FT", "der"].tolist() == [80, 80]
    assert frame["n"].eq(1).all() and frame["hardware"].eq("test device").all()
    assert "BadNetsFT0" in table


def test_victims_alone_are_no_leaderboard(tmp_path):
    DataFrame([row("LF", "No Defense", 0.9, 1.0)]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match="no row of a defense"):
        leaderboard({"a": tmp_path / "rows.csv"}, {}, {}, tmp_path)
