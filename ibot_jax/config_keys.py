"""Rules that any config follows: its keys and the types of their values."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from ibot_jax.errors import UserError


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """Returns the error for a key that is not among the known ones, naming the likeliest."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    # Also a right name in the wrong section, or none: "lr", "model.lr".
    leaf = key.rsplit(".", 1)[-1]
    close += [name for name in known if name.rsplit(".", 1)[-1] == leaf and name not in close]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return UserError(f"config.{key} is no key of the config{hint}")


def type_name(default: Any) -> str:
    """Returns in words what a key with this default takes."""
    if isinstance(default, ConfigDict):
        return "a section; set its keys one by one"
    if isinstance(default, tuple):
        example = ",".join(str(entry) for entry in default)
        return f"{len(default)} numbers such as {example}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[type(default)]


def require(flat: dict[str, Any], key: str, holds: bool, problem: str) -> None:
    """Raises a UserError that names the key and its value, unless something holds."""
    if not holds:
        raise UserError(f"{key}={flat[key]!r} {problem}")


def entries(value: Any) -> tuple:
    """Returns the entries of a value that has several, or the one that it is."""
    return value if isinstance(value, tuple) else (value,)


def check_keys_and_types(
    flat: dict[str, Any], defaults: dict[str, Any], whole_numbers: Iterable[str] = ()
) -> None:
    """Checks that a config has the keys of the default one, and values of the same types.

    Args:
      flat: the config, flattened.
      defaults: the default config, flattened.
      whole_numbers: keys with several entries that must be whole.

    Raises:
      UserError: for the first mistake found.
    """
    for key in flat:
        if key not in defaults:
            raise unknown_key(key, defaults)
    for key, default in defaults.items():
        if key not in flat:
            raise UserError(f"config.{key} is missing; start from the default get_config()")
        number = default[0] if isinstance(default, tuple) else default
        kind = int if key in whole_numbers else type(number)
        fits = isinstance(flat[key], tuple) == isinstance(default, tuple) and all(
            type(entry) is kind or (kind is float and type(entry) is int)
            for entry in entries(flat[key])
        )
        require(flat, key, fits, f"has the wrong type; it takes {type_name(default)}")
        if kind is float:
            finite = all(math.isfinite(entry) for entry in entries(flat[key]))
            require(flat, key, finite, "is not finite; give a number")
