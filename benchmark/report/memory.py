"""What was computed from a frame, for as long as the frame lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any, TypeVar

from pandas import DataFrame

F = TypeVar("F", bound=Callable[..., Any])


def remembered(function: F) -> F:
    """Decorate a function of a frame, and of arguments that are hashable, to compute once.

    Tables, figures and pages ask for the same numbers many times. What is returned is a copy; the
    frame itself must not be changed in place afterwards, and none of a report is.
    """
    known: dict[int, tuple[weakref.ref[DataFrame], dict[Any, Any]]] = {}

    @wraps(function)
    def recall(frame: DataFrame, *arguments: Any) -> Any:
        place = id(frame)
        if place not in known:
            forget = weakref.ref(frame, lambda _: known.pop(place, None))
            known[place] = forget, {}
        results = known[place][1]
        if arguments not in results:
            results[arguments] = function(frame, *arguments)
        return copy(results[arguments])

    return recall  # type: ignore[return-value]
