"""Which rows no table can use, and the reasons that stand in their place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sau_bench.benchmark.rows import NOTE_LENGTH, fault, reason, without_result

ROW = {"kind": "rounds", "step": 1, "status": "ok", "acc": 0.9, "asr": 0.1, "note": "fine"}
NAN = float("nan")


@pytest.mark.parametrize("changes", [{}, {"value": None}, {"own_acc": NAN}, {"acc": 1, "asr": 0}])
def test_rows_as_jobs_write_them_have_no_fault(changes):
    assert fault(ROW | changes) == ""


@pytest.mark.parametrize("status", ["diverged", "not applicable", "failed", "missing"])
def test_a_row_that_is_not_ok_needs_no_score(status):
    assert fault({"kind": "victim", "step": 0, "status": status}) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"value": "high"}, "value 'high' is no number"),
        ({"value": "0.4"}, "value '0.4' is no number"),
        ({"acc": True}, "acc True is no number"),
        ({"acc": [0.9]}, "acc [0.9] is no number"),
        ({"asr": 1.01}, "asr 1.01 is no share in [0, 1]"),
        ({"asr_1": -0.1}, "asr_1 -0.1 is no share in [0, 1]"),
        ({"seconds": float("inf")}, "seconds is not finite"),
        ({"acc": None}, "it has no ACC"),
        ({"asr": NAN}, "it has no ASR"),
        ({"step": None}, "it has no step"),
        ({"kind": "round"}, "kind 'round' is unknown"),
        ({"kind": []}, "kind [] is unknown"),
        ({"status": None}, "status None is unknown"),
        ({"note": {"a": 1}}, "note {'a': 1} is no text"),
        ({"note": ["x" * 999]}, "note ['" + "x" * 54 + " ... is no text"),
    ],
)
def test_a_fault_is_named(changes, why):
    assert fault(ROW | changes) == why


@pytest.mark.parametrize("row", [1, None, "text", [ROW], True])
def test_a_row_is_a_mapping(row):
    assert fault(row) == f"a row is a {type(row).__name__}, expected a mapping"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*ROW, "value", "asr_1", "device"]), json) | json)
def test_any_json_is_judged(row):
    assert isinstance(fault(ROW | row if isinstance(row, dict) else row), str)


@given(st.text(st.characters()) | st.text(st.sampled_from("a \n\x00\x1b\x9f\u2028\ud800|é")))
def test_a_reason_is_one_printable_line_of_bounded_length(text):
    line = reason(text)
    assert line.isprintable() and len(line) <= NOTE_LENGTH and line == line.strip()
    line.encode()


def test_a_long_reason_is_cut_and_a_short_one_is_not():
    assert reason("x" * 300) == "x" * 300
    assert reason("x" * 20_000_000) == "x" * 296 + " ..."
    assert reason("no\x1b[31m\tred\r\nline") == "no [31m red line"
    assert fault(without_result("rounds", "failed", "boom")) == ""
