"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class InputError(Exception):
    """Bad input: one line that names the value and what is accepted."""


def check_range(
    owner: object,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse numbers that are out of range or not finite.

    Attributes of the owner, by name; None is fine, and of a sequence every entry counts.

    Raises:
        ValueError: names the first one, its value and what is accepted.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    accepted = " and ".join(f"{word} {b}" for word, b in bounds.items() if b is not None)
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            fits = number is None or (
                math.isfinite(number)
                and (least is None or number >= least)
                and (above is None or number > above)
                and (most is None or number <= most)
                and (below is None or number < below)
            )
            if not fits:
                raise ValueError(f"{name} is {number}, accepted: {accepted}")


def nearest(name: str, accepted: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the accepted name closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def one_line(error: object) -> str:
    """The text of an error, or of anything else, without line breaks."""
    return " ".join(str(error).split())


def printable(text: str, limit: int) -> str:
    """The text as any terminal and any file takes it, cut to about `limit` characters.

    Lone surrogates and control characters, but for tabs and line breaks, become escapes. Of a text
    that is too long the start and the end stay, where tracebacks say most.
    """
    if len(text) > limit:
        text = (
            f"{text[: limit // 2]} [... {len(text) - limit} characters ...] {text[-limit // 2 :]}"
        )
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
