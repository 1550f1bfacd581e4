"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input: one line that names what was given and what is accepted."""


def nearest(given: str, accepted: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest accepted name, or an empty string."""
    match = difflib.get_close_matches(given, list(accepted), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
