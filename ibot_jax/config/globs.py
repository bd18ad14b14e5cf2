"""Values by glob, as a config writes them: "backbone: 0.1; backbone/blocks_[0-5]: 0.01".

A glob names parameters by their names, "backbone/blocks_0/attn/qkv/kernel", or by what these begin
with: "backbone/blocks_0" names all parameters of that block. In it `*` is any text, `?` any
character, `[0-5]` one of some. Of several entries that name a parameter, the last one counts.
"""

import difflib
import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def parse(text: str) -> list[tuple[str, str]]:
    """Splits "GLOB: VALUE; GLOB: VALUE" into its entries, [(glob, value)], in order.

    Raises:
      ValueError: with what is wrong in words, to be put behind the text.
    """
    if not text.strip():
        return []
    found = []
    for entry in text.split(";"):
        glob, colon, value = (part.strip() for part in entry.partition(":"))
        if not (glob and colon and value):
            raise ValueError(f'has the entry {entry.strip()!r}; write "GLOB: VALUE; GLOB: VALUE"')
        found.append((glob, value))
    return found


def by_name(entries: Sequence[tuple[str, T]], names: Iterable[str]) -> Mapping[str, T]:
    """Returns the value of each name that an entry names.

    Args:
      entries: of globs and values.
      names: of parameters, joined by "/".

    Raises:
      ValueError: if a glob names nothing, in words, to be put behind the text.
    """
    names = list(names)
    found: dict[str, T] = {}
    for glob, value in entries:
        named = [name for name in names if _names(glob, name)]
        if not named:
            raise ValueError(f"has {glob!r}, which names no parameter; {_hint(glob, names)}")
        found |= dict.fromkeys(named, value)
    return found


def _names(glob: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(start, glob) for start in _starts(name))


def _starts(name: str) -> Iterable[str]:
    """Returns "a", "a/b" and "a/b/c" of "a/b/c"."""
    return itertools.accumulate(name.split("/"), "{}/{}".format)


def _hint(glob: str, names: list[str]) -> str:
    starts = dict.fromkeys(start for name in names for start in _starts(name))
    close = difflib.get_close_matches(glob, starts, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"names are such as {names[0]}"
