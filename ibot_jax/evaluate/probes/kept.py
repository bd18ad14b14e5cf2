"""What a long evaluation keeps, so that it goes on where it was interrupted.

    OUT/NAME-KEY.npz

KEY is a hash of all that determines the outcome.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed
from ibot_jax.files.paths import absolute_path, writing
from ibot_jax.parallel.agreement import require_same, same_end
from ibot_jax.parallel.processes import is_first


class Kept:
    """The arrays of a training or a search, in one file, which the first process writes.

    Attributes:
      path: of the file.
    """

    def __init__(self, folder: str, name: str, about: Mapping[str, Any]):
        """Names the file.

        Args:
          folder: where it lies.
          name: of the probe or task.
          about: all that determines the outcome; JSON types only.
        """
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = folder
        self.path: epath.Path = absolute_path(folder) / f"{name}-{key}.npz"

    def read(self) -> dict[str, np.ndarray] | None:
        """Returns what was kept, by name; None if there is nothing.

        Raises:
          UserError: if it cannot be read, or is not the same on all processes.
        """
        with same_end():
            there = self.path.exists()
            length = self.path.stat().length if there else 0
        require_same(f"{length}", str(self.path))
        if not there:
            return None
        with same_end():
            try:
                with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            except Exception as error:  # NumPy and zipfile raise many kinds
                raise self.damaged(error) from error

    def rows(self, name: str, shape: tuple[int, ...], most: int) -> list[np.ndarray]:
        """Returns the rows of an array that grows as a search goes on; none if nothing was kept.

        Args:
          name: of the array.
          shape: of a row.
          most: rows there can be.

        Raises:
          UserError: if it cannot be read, or holds something else.
        """
        arrays = self.read()
        if arrays is None:
            return []
        found = np.shape(arrays.get(name))
        if found[1:] != shape or not 0 < found[0] <= most:
            raise self.damaged(ValueError(f"{name} are {found}, not up to {(most, *shape)}"))
        return list(arrays[name])

    def damaged(self, error: Exception) -> UserError:
        """Returns the mistake of a file that does not hold what it should."""
        return UserError(f"{self.path} is damaged ({error}); remove it")

    def write(self, arrays: Mapping[str, Any]) -> None:
        """Replaces what was kept, at once.

        Raises:
          UserError: if it cannot be written.
        """
        with same_end():
            if not is_first():
                return
            with writing("--out", self._folder):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with renamed(self.path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **arrays)
