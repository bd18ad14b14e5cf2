"""Files that a pattern names: shards on a disk or in a bucket.

/data/train-*.tar               *, ?, [...] and ** as in a shell
gs://bucket/{000..146}.tar      a range, with as many digits as its ends have
/data/{a,b}/*.parquet           one after the other
/data/{split}-*.tar             the split that is asked for; without it there is one, "train"
"""

import glob
import itertools
import os
import re

from ibot_jax.errors import UserError
from ibot_jax.files import remote

SPLIT = "{split}"
_TEST = ("test", "val", "validation", "valid")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def files_of(pattern: str, split: str, *, spec: str, key: str) -> list[str]:
    """Returns the paths or URLs that a pattern names, in its order, and by name where it has a *.

    Args:
      pattern: see the module.
      split: "train", or what stands for {split}.
      spec: how the user writes the pattern, for errors.
      key: what `split` is called in errors.

    Raises:
      UserError: if it names no file, or has no {split} for another split than "train".
    """
    if SPLIT not in pattern and split != "train":
        raise UserError(
            f"{key}={split!r} is not in data.source={spec!r}, which has one split, train; write "
            f"{SPLIT} where the names of its files differ"
        )
    named = pattern.replace(SPLIT, split)
    files = _named_by(named)
    if not files:
        of_split = f"{key}={split!r}: " if SPLIT in pattern else ""
        raise UserError(f"{of_split}data.source={spec!r} names no file; look at the path ({named})")
    return files


def splits_for_testing(pattern: str) -> list[str]:
    """Returns the splits of a pattern that are called like one to test on, the likeliest first."""
    if SPLIT not in pattern:
        return []
    return [split for split in _TEST if _named_by(pattern.replace(SPLIT, split))]


def _named_by(pattern: str) -> list[str]:
    """Returns the files that a pattern names: the one of that very name, or those that match."""
    path = os.path.expanduser(pattern)  # may lie in a folder called "a [1]"
    if not remote.is_remote(path) and os.path.isfile(path):
        return [path]
    return list(itertools.chain.from_iterable(map(_matching, _expanded(pattern))))


def _expanded(pattern: str) -> list[str]:
    """Returns the patterns that braces stand for, like a shell."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    if bounds := _RANGE.fullmatch(found[1]):
        first, last = bounds.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + choice + rest for choice in choices for rest in _expanded(after)]


def _matching(path: str) -> list[str]:
    """Returns the files that a path names, which may have a *; none where it is not there."""
    if remote.is_remote(path):
        return remote.matching(path)
    path = os.path.expanduser(path)
    found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
    return [file for file in found if os.path.isfile(file)]
