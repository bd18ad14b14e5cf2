"""ReaL: which of ImageNet's classes a validation image shows (Beyer et al., arXiv 2006.07159)."""

import json
import re
from collections.abc import Sequence

import numpy as np

from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path

PAGE = "github.com/google-research/reassessed-imagenet"
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def read_real(file: str, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Returns which classes images show, [M, C] bool; none for those that do not count.

    Args:
      file: real.json, lists of classes, one for each validation image in the order of their
        numbers.
      names: of the images, which end in ILSVRC2012_val_NUMBER.JPEG, from 1 on.
      num_classes: C, ImageNet's in alphabetic order of their WNIDs.

    Raises:
      UserError: if the file is no such list, or an image has no such name.
    """
    flag = f"--imagenet-real={file}"
    try:
        listed = json.loads(absolute_path(file).read_text())
        largest = max(max(classes, default=0) for classes in listed)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{flag} is no list of the classes of each image ({error!r}); real.json is to be had "
            f"at {PAGE}"
        ) from error
    if largest >= num_classes:
        raise UserError(f"{flag} has the class {largest}; the training split has {num_classes}")
    shown = np.zeros((len(names), num_classes), bool)
    for own, name in zip(shown, names, strict=True):
        found = _NUMBER.search(name)
        if not found or not 1 <= int(found[1]) <= len(listed):
            raise UserError(
                f"{flag} lists {len(listed):,} images, of which {name} is none; the test split "
                "must be ImageNet's validation images, ILSVRC2012_val_00000001.JPEG and others"
            )
        own[listed[int(found[1]) - 1]] = True
    return shown
