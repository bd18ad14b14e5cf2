"""What a file or folder of another project holds, before anything is made of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files import json_files

DESCRIPTION = "ibot_jax"  # where files that this project writes for others keep its description


class Stored(Protocol):
    """A tensor that is still in its file."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns it; raises whatever a damaged file makes happen."""


Tensors = Mapping[str, Stored | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was found.

    Attributes:
      kind: of file, for people.
      sets: tensors by the names they have there, by "teacher" and "student"; by "" where there is
        one set and nothing says whose.
      centers: of the losses, by kind, where there are any.
      facts: what else is known of the model: `heads` and `depth`, or a Swin's `stage_heads` and
        `stage_depths`, `width` (of its first stage), `hidden` units of an MLP, `patch_size`,
        `channels`, `size` [height, width], `mean`, `std`, `epsilon` and `norm_kind` of norms,
        `args` and `epoch` of the original's run, `act` of its head, `view`, how images are resized
        and cut, with `notes` on what of it is not taken, `license` of the weights, and
        `description`, which this project has written into the file.
      others: names of what is in the file besides.
    """

    kind: str
    sets: dict[str, Tensors]
    centers: dict[str, Stored] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()


def parse_object(text: str | bytes, path: epath.Path) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
      UserError: if a text of a file is something else.
    """
    try:
        return json_files.parse_object(text)
    except ValueError as error:
        raise UserError(f"{path} {error}; restore it") from None
