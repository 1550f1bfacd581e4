"""What `report.md` says about runs: attention, provenance, notes."""

from __future__ import annotations

from typing import Any

from pandas import DataFrame
from table_rows import VICTIM, row

from sau_bench.benchmark.report.remarks import attention, notes, pointer, provenance
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.report.write import report


def runs(*rows: dict[str, Any]) -> DataFrame:
    return select(DataFrame([VICTIM, *rows]), {})


def test_runs_that_are_fine_need_no_attention():
    fine = runs(row("BadNets", "FP", 0.9, 0.1, note="pruned 3 of 128 features"))
    assert pointer(fine) == [] and attention(fine) == []


def test_a_status_and_a_warning_need_attention():
    flagged = runs(
        row("BadNets", "FT", 0.1, 0.0, status="diverged"),
        row("BadNets", "NC", 0.9, 0.1, warning="one | two\nlines", note="no class flagged"),
        row("BadNets", "FP", 0.9, 0.1, note="pruned 3 of 128 features"),
    )
    assert "2 of 4 runs" in pointer(flagged)[0]
    heading, table = attention(flagged)
    assert heading == "## Attention"
    assert [line.split(" | ")[3:] for line in table.splitlines()[2:]] == [
        ["FT", "0", "diverged", "", " |"],
        ["NC", "0", "ok", r"one \| two lines", "no class flagged |"],
    ]
    assert "NC" not in notes(flagged)[1]  # its note stands beside its warning


def test_notes_take_a_line_for_each_defense():
    victims = [row(attack, "No Defense", 0.9, 1.0) for attack in ("LF", "SIG")]
    nc = [
        row(attack, "NC", 0.9, 0.1, note=note)
        for attack, note in {"BadNets": "flagged: 0", "LF": "none", "SIG": "none"}.items()
    ]
    heading, lines = notes(runs(*victims, *nc, row("SIG", "FP", 0.9, 0.1, note="pruned 3")))
    assert heading == "## Notes"
    assert lines.splitlines() == [
        "- **NC**: BadNets: flagged: 0 · LF, SIG: none",
        "- **FP**: SIG: pruned 3",
    ]


def test_notes_name_every_axis_on_which_runs_differ():
    other = {"seed": 1, "victim": "BadNetsNo Defense1"}
    noted = runs(
        VICTIM | other | {"key": "BadNetsNo Defense1"},
        row("BadNets", "NC", 0.9, 0.1, note="none"),
        row("BadNets", "NC", 0.9, 0.1, note="none", **other),
    )
    assert notes(noted)[1] == "- **NC**: 0, 1: none"
    assert notes(runs()) == []


def test_provenance_says_what_a_defense_is_handed():
    rows = [VICTIM, row("BadNets", "FT", 0.9, 0.1)]
    rows += [
        row("BadNets", name, 0.9, 0.1, uses=uses, clean_ratio=float("nan"))
        for name, uses in (("EP", "train"), ("CLP", "none"))
    ]
    text = "\n".join(provenance(DataFrame(rows), select(DataFrame(rows), {"FT": "last"})))
    assert "| FT | 5 % of the training set, clean | last |" in text
    assert "| EP | the poisoned training set | last |" in text
    assert "| CLP | no data | last |" in text
    assert "Hardware: test device." in text and "Versions: test 1.0." in text


def test_results_come_first_and_notes_last(tmp_path):
    clean = VICTIM | {"attack": "", "defense": "", "kind": "clean", "key": "c", "victim": ""}
    clean |= {"status": "diverged", "poison_ratio": 0.0}
    noted = row("BadNets", "FT", 0.9, 0.1, note="fine")
    DataFrame([VICTIM, noted, clean]).to_csv(tmp_path / "rows.csv", index=False)
    report(tmp_path, {})
    text = (tmp_path / "report.md").read_text("utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## CIFAR-10, PreAct-ResNet18",
        "## Attention",
        "## Provenance",
        "## Notes",
    ]
    assert "1 of 3 runs" in text.split("## CIFAR-10")[0]
    assert "| trained on clean data | 0 | diverged |" in text
