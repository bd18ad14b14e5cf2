"""A recording: the arrays of a file, its settings, and how far ours are from them."""

import dataclasses
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ibot_jax.errors import UserError

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a quantity is from what was recorded.

    Attributes:
      quantity: what is compared, e.g. "final student".
      value: the largest difference relative to the largest recorded value, over all its arrays.
      tolerance: up to which it is what was recorded.
      where: the array, or the step, with that difference.
    """

    quantity: str
    value: float
    tolerance: float
    where: str = ""

    @property
    def within(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.value <= self.tolerance


Deviations = Iterator[Deviation]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of recording.

    Attributes:
      title: what such a file holds.
      takes: whether a recording is of this kind.
      replay: computes it again, and yields the deviations.
      unknown: returns the settings that are not known here; the deviations tell their effect.
    """

    title: str
    takes: Callable[["Recording"], bool]
    replay: Callable[["Recording"], Deviations]
    unknown: Callable[["Recording"], list[str]] = lambda _: []


class Recording:
    """The arrays of an .npz file by name, read when they are asked for.

    Attributes:
      path: of the file.
      names: of the arrays.
      settings: what its `config` says, JSON; {} without.
    """

    def __init__(self, path: str):
        """Opens a file.

        Args:
          path: of an .npz file.

        Raises:
          UserError: if it cannot be read as one.
        """
        self.path = path
        try:
            self._arrays = np.load(path)
            self.names = frozenset(self._arrays.files)
        except (*_DAMAGE, AttributeError) as error:  # a single array has no files
            reason = error.strerror if isinstance(error, OSError) else None
            raise UserError(f"{path}: no recording: {reason or 'no .npz file, or cut'}") from None
        self.settings = self._settings()

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns an array.

        Raises:
          UserError: if there is none, or it cannot be read.
        """
        if name not in self.names:
            raise self.problem(f"it has no {name}")
        try:
            return self._arrays[name]
        except _DAMAGE as error:
            raise self.problem(f"{name} cannot be read: {error}") from None

    def __contains__(self, name: str) -> bool:
        """Returns whether there is such an array."""
        return name in self.names

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the arrays whose names begin with a prefix, by the rest of their names."""
        found = sorted(name for name in self.names if name.startswith(prefix))
        return {name.removeprefix(prefix): self[name] for name in found}

    def has(self, prefix: str) -> bool:
        """Returns whether any name begins with a prefix."""
        return any(name.startswith(prefix) for name in self.names)

    def problem(self, text: str) -> UserError:
        """Returns the error that says of this file what keeps it from being replayed."""
        return UserError(f"{self.path}: {text}")

    def setting(self, name: str) -> Any:
        """Returns a setting.

        Raises:
          UserError: if the file does not tell it.
        """
        if name not in self.settings:
            raise self.problem(f"its config has no {name}")
        return self.settings[name]

    def _settings(self) -> dict[str, Any]:
        if "config" not in self:
            return {}
        try:
            settings = json.loads(str(self["config"]))
        except ValueError as error:
            raise self.problem(f"its config is no JSON: {error}") from None
        if not isinstance(settings, dict):
            raise self.problem("its config is no JSON object")
        return settings


def compare(
    quantity: str, ours: Mapping[str, Any], theirs: Mapping[str, np.ndarray], tolerance: float
) -> Deviation:
    """Compares arrays by name; all that was recorded must be there, in its shape.

    Args:
      quantity: what they are.
      ours: the arrays computed here.
      theirs: those recorded, at least one.
      tolerance: of the quantity.
    """
    found = {name: difference(np.asarray(ours[name]), theirs[name]) for name in theirs}
    # NaN is the largest of all.
    where = max(found, key=lambda name: np.inf if np.isnan(found[name]) else found[name])
    return Deviation(quantity, found[where], tolerance, where)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference relative to the largest recorded value; inf between shapes."""
    if ours.shape != theirs.shape:
        return np.inf
    if not theirs.size:
        return 0.0
    theirs = theirs.astype(np.float64)
    largest = np.abs(theirs).max()
    found = np.abs(ours.astype(np.float64) - theirs).max()
    return float(found / largest if largest > 0 else found)
