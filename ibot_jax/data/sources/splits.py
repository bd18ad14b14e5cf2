"""Which folders are splits of the data and not classes: those that are all called so.

A folder called "train" is the training part where "test" or "val" is all that lies beside it. Among
other folders ("bus", "car", "train") it is a class like them. Case and a number at the end
("Train", "val2017") make no difference.
"""

import re
from collections.abc import Iterable, Sequence

AUTO = "auto"  # the name of a split that is to be found

_TRAIN = ("train", "training")
# Those to test on, the likeliest first.
_TEST = ("test", "val", "validation", "valid", "testing", "dev", "eval", "evaluation")
_OTHER = ("extra", "unlabeled", "unlabelled")


def is_split_name(name: str) -> bool:
    """Returns whether a folder of this name may be a split."""
    return _stem(name) in _TRAIN + _TEST + _OTHER


def for_training(names: Iterable[str]) -> list[str]:
    """Returns those of the names that are called like a training part, by name."""
    return sorted(name for name in names if _stem(name) in _TRAIN)


def for_testing(names: Iterable[str], first: Sequence[str] = _TEST) -> list[str]:
    """Returns those of the names that are called like a part to test on, the likeliest first.

    Args:
      names: of splits.
      first: which kinds of name come first; the others follow.
    """
    order = [*first, *_TEST]
    found = [name for name in names if _stem(name) in _TEST]
    return sorted(found, key=lambda name: (order.index(_stem(name)), name))


def _stem(name: str) -> str:
    return re.sub(r"[-_ ]?\d*$", "", name.lower())
