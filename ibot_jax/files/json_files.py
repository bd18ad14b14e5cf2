"""JSON as this project writes it, and reads it from files that may be damaged."""

import json
import sys
from typing import Any


def as_json(value: Any) -> str:
    """Returns a value as an indented JSON text with a newline at its end."""
    return json.dumps(value, indent=2) + "\n"


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Raises:
      ValueError: that says what is there instead, "is no JSON".
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError, too
        raise ValueError("is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    return value


def is_finite_number(value: Any) -> bool:
    """Returns whether a value from a JSON text is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
