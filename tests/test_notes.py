"""Notes: a level between progress and warnings."""

import logging

import pytest

from sau_bench.benchmark.notes import NOTE, note


def test_a_note_lies_between_progress_and_warnings(caplog: pytest.LogCaptureFixture) -> None:
    assert logging.INFO < NOTE < logging.WARNING
    with caplog.at_level(logging.WARNING):
        note("not heard")
    with caplog.at_level(logging.INFO):
        note("pruned %d of %d channels", 3, 28)
    (record,) = caplog.records
    assert record.getMessage() == "pruned 3 of 28 channels"
    assert (record.levelno, record.levelname) == (NOTE, "NOTE")
    assert record.filename == "test_notes.py"
