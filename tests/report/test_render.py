"""Printed tables: marks, captions, formats."""

from __future__ import annotations

import numpy as np
from pandas import DataFrame
from table_rows import ANP, VICTIM, grid, row

from sau_bench.benchmark.report.render import caption, metric_table, trigger_table
from sau_bench.benchmark.report.tables import select


def test_best_is_bold_and_second_underlined():
    scores = {
        "BadNets": {"No Defense": (0.99, 1.0), "A": (0.9, 0.1), "B": (0.9, 0.2), "C": (0.8, 0.3)}
    }
    acc, asr = (metric_table(grid(scores), metric) for metric in ("acc", "asr"))
    assert "| BadNets | 99.00 | **90.00** | **90.00** | <u>80.00</u> |" in acc.markdown()
    assert "| BadNets | 100.00 | **10.00** | <u>20.00</u> | 30.00 |" in asr.markdown()
    assert (
        r"BadNets & 99.00 & \textbf{90.00} & \textbf{90.00} & \underline{80.00} \\" in acc.latex()
    )


def test_latex_escapes_labels():
    text = metric_table(grid({"A_1 & 50 %": {"No Defense": (0.9, 1.0)}}), "acc").latex()
    assert r"A\_1 \& 50 \% & 90.00 \\" in text
    assert r"\toprule" in text and r"\caption{ACC in percent" in text


def test_caption_tells_ratios_and_warns_of_the_oracle():
    rows = [VICTIM, *ANP, row("SIG", "No Defense", 0.9, 1.0, poison_ratio=0.005)]
    text = caption(select(DataFrame(rows), {"ANP": "oracle"}), "ACC")
    assert "poisoning ratio 10 % (BadNets); 0.5 % (SIG)" in text
    assert text.endswith("; selection: oracle, which looks at test data.")
    both = select(DataFrame([*rows, row("BadNets", "FT", 0.9, 0.1)]), {"ANP": "oracle"})
    assert "oracle, which looks at test data, (ANP); last (FT)" in caption(both, "ACC")


def test_a_caption_ignores_rows_without_a_poisoning_ratio():
    """As of a method that is not applicable, in files of older versions."""
    missing = row("BadNets", "NAD", np.nan, np.nan, poison_ratio=np.nan, status="not applicable")
    selected = select(DataFrame([VICTIM, missing]), {})
    assert "poisoning ratio 10 %;" in caption(selected, "ACC")
    assert "nan" not in metric_table(selected, "acc").markdown()


def test_a_caption_speaks_of_ranks_only_where_there_are_some():
    alone = grid({"BadNets": {"No Defense": (0.9, 1.0), "FT": (0.9, 0.2)}})
    assert "bold" not in metric_table(alone, "acc").caption


def test_pipes_in_labels_do_not_split_cells():
    text = metric_table(grid({"A | B": {"No Defense": (0.9, 1.0)}}), "acc").markdown()
    assert r"| A \| B | 90.00 |" in text


def test_triggers_are_averaged_and_marked_like_other_scores():
    parts = {"asr_1": 0.9, "asr_2": 0.8, "racc_1": 0.1, "racc_2": 0.2}
    rows = [
        row("Multi", defense, acc, 0.85, seed=seed, status=status, **parts)
        for seed in (0, 1)
        for defense, acc, status in [("No Defense", 0.9, "ok"), ("FT", 0.1 + seed, "diverged")]
    ]
    rows += [row("BadNets", "No Defense", 0.9, 0.9, seed=seed) for seed in (0, 1)]
    assert trigger_table(select(DataFrame(rows[-2:]), {})) is None
    table = trigger_table(select(DataFrame(rows), {}))
    assert table is not None
    scores = ["90.00 ± 0.00", "80.00 ± 0.00", "10.00 ± 0.00", "20.00 ± 0.00"]
    assert table.text.to_numpy().tolist() == [
        ["Multi", "No Defense", "90.00 ± 0.00", *scores],
        ["Multi", "FT", "60.00 ± 70.71†", *(f"{score}†" for score in scores)],
    ]
    assert table.notes == ("† diverged: FT (Multi).",)
