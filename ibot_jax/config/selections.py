"""Which blocks and channels of other weights a run starts with, as a config writes them."""

import re

# Of images with three channels.
_NAMES = {"red": 0, "green": 1, "blue": 2}


def blocks(text: str) -> tuple[int, ...]:
    """Returns the numbers in "0-5" or "0,2,4"; a range goes to its end.

    Raises:
      ValueError: with what is wrong in words, to be put behind the text.
    """
    numbers: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError('names no blocks; write it as "0-5" or "0,2,4"')
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if text and not numbers:
        raise ValueError('names no blocks; write it as "0-5" or "0,2,4"')
    return tuple(numbers)


def channels(text: str, old: int, new: int) -> tuple[int | str, ...]:
    """Returns what becomes of each new channel: the number of an old one, "mean" or "zero".

    Args:
      text: "expand", or an entry for each new channel.
      old: how many channels the weights are for.
      new: how many they shall be for.

    Raises:
      ValueError: with what is wrong in words, to be put behind the text.
    """
    if text == "expand":
        kept = old if new >= old else 0
        return (*range(kept), *["mean"] * (new - kept))
    known = {str(number): number for number in range(old)} | {"mean": "mean", "zero": "zero"}
    known |= _NAMES if old == len(_NAMES) else {}
    parts = text.replace(" ", "").split(",")
    if len(parts) != new or not all(part in known for part in parts):
        raise ValueError(f"needs {new} entries, each one of {', '.join(known)}; or expand")
    if set(parts) == {"zero"}:
        raise ValueError("leaves no channel to see by; use expand, or name one that is there")
    return tuple(known[part] for part in parts)
