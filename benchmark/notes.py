"""Notes: what a reader of a table should know about a row that is as it should be.

A plugin says so with `note`; what went wrong is a warning of its logger instead. The harness writes
both into the row, in columns of their own.
"""

from __future__ import annotations

import logging

NOTE = 25
"""The level of notes, between those of progress (INFO) and of warnings."""

logging.addLevelName(NOTE, "NOTE")


def note(message: str, *values: object) -> None:
    """Log a note; the message is formatted with the values as in the `logging` module."""
    logging.getLogger(__name__).log(NOTE, message, *values, stacklevel=2)
