"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

MOST = 10**9
"""The upper bound of a number for which `check_range` is called without one."""
EPOCHS = 100_000
"""The most epochs or rounds of anything."""
IMAGES = 2**31
"""The most images of a batch."""
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

    Attributes of the owner, by name; None is fine, and of a sequence every entry counts. Without
    `most` and `below` the upper bound is `MOST`.

    Raises:
        ValueError: names the first one, its value and what is accepted.
    """
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is None:
                continue
            huge = most is None and below is None and number > MOST and number != math.inf
            bounds = {"at least": least, "above": above, "at most": most, "below": below}
            fits = (
                # An integer of any size compares with a float, but need not have one.
                number == number
                and abs(number) != math.inf
                and not huge
                and (least is None or number >= least)
                and (above is None or number > above)
                and (most is None or number <= most)
                and (below is None or number < below)
            )
            if not fits:
                bounds |= {"at most": MOST} if huge else {}
                accepted = " and ".join(
                    f"{word} {b}" for word, b in bounds.items() if b is not None
                )
                raise ValueError(f"{name} is {shown(number)}, accepted: {accepted}")


def shown(value: object, most: int = 80) -> str:
    """The repr of a value in one line, cut after `most` characters."""
    if isinstance(value, str | bytes):
        value = value[: most + 1]  # before the repr, which may be far longer than its text
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # an integer of over 4,300 digits, a repr that fails
        text = f"<{type(value).__name__} without a repr: {type(error).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(names: Iterable[str], most: int = 200) -> str:
    """Names in one line, separated by commas, cut after about `most` characters."""
    text = ""
    for name in names:
        if len(text) + len(name) > most:
            return f"{text[:most]}, ..."
        text += f", {name}" if text else name
    return text


def nearest(name: str, accepted: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the accepted name closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name[:100], list(accepted), n=1, cutoff=0.5)
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
