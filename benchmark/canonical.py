"""The one text of a JSON value, and the key of a job: its hash."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

KEY = re.compile("[0-9a-f]{24}")
"""What a job key looks like."""


def canonical_json(value: Any) -> str:
    """The JSON text of a value, the same whatever the order of its fields."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def job_key(canonical: Any) -> str:
    """The key of a job: 24 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(canonical).encode()).hexdigest()[:24]


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Dotted names of the fields in which two JSON values differ."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [name]
    return [
        difference
        for field in {**first, **second}
        for difference in differences(
            first.get(field), second.get(field), f"{name}.{field}" if name else field
        )
    ]
