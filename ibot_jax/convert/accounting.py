"""Every tensor accounted for: what is missing, left over or of another shape, and may it be so."""

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from ibot_jax.convert.contents import Tensors
from ibot_jax.convert.dialects import FileNames
from ibot_jax.errors import UserError

MASK_TOKEN = "backbone.masked_embed"
NO_MASK_TOKEN = "no mask token in it: zeros, which only masked images would meet"
_MAX_NAMED = 6  # tensors in a message


def account(
    names: FileNames,
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    path: str,
    allow: Sequence[str],
) -> list[str]:
    """Compares the tensors of a file with those of a model.

    Args:
      names: how the file names them.
      tensors: of the file, by its names.
      expected: shapes of the model's tensors, by the original's names.
      path: of the file, for messages.
      allow: patterns, as of shells, of what may be missing or left over.

    Returns:
      Notes on what is not there or not taken, all of it allowed.

    Raises:
      UserError: with the names of all tensors that are missing, left over or of another shape
        without being allowed to be.
    """
    missing, notes = _missing(names, tensors, expected, allow)
    surplus, more_notes = _left_over(names, tensors, expected, allow)
    faults = []
    if missing:
        faults.append(f"it lacks {listed(missing)}")
    if surplus:
        faults.append(f"it holds {listed(surplus)} besides")
    faults += _misshapen(names, tensors, expected)
    if faults:
        example = (surplus or missing or ["NAME"])[0]
        raise UserError(
            f"{path} does not hold the Vision Transformer that it looks like: {'; '.join(faults)}. "
            "What may be missing (biases and gains only) or left over can be named: "
            f"--allow='{example}', or with wildcards"
        )
    return notes + more_notes


def _missing(
    names: FileNames,
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    allow: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Returns what is missing and must not be, and notes on what may be."""
    notes, replaced, faults = [], [], []
    for name, shape in expected.items():
        absent = [part for part in names.find(name) if part not in tensors]
        if absent and name == MASK_TOKEN:
            notes.append(NO_MASK_TOKEN)
        elif _all_match(absent, allow) and neutral(name, shape) is not None:
            replaced += absent
        else:
            faults += absent
    if replaced:
        notes.append(f"missing, with neutral values in their place: {listed(replaced)}")
    return faults, notes


def _left_over(
    names: FileNames,
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    allow: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Returns what is left over and must not be, and notes on what may be."""
    notes = []
    used = {part for name in expected for part in names.find(name)}
    with_head = any(name.startswith("head.") for name in expected)
    rest, of_head = [], []
    for name in tensors:
        if name in used:
            continue
        if not names.is_head(name) or (with_head and not names.is_second_last_layer(name)):
            rest.append(name)
        elif not with_head:
            of_head.append(name)
    if of_head:
        notes.append(f"left out: the projection head, {len(of_head)} tensors; --head takes it")
    if permitted := [name for name in rest if _all_match([name], allow)]:
        notes.append(f"left out: {listed(permitted)}")
    return [name for name in rest if not _all_match([name], allow)], notes


def _misshapen(
    names: FileNames, tensors: Tensors, expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Returns what is of another shape, in words."""
    faults = []
    for name, shape in expected.items():
        parts = names.find(name)
        if not all(part in tensors for part in parts):
            continue
        there = joint_shape([tensors[part].shape for part in parts])
        # Hugging Face's mask token has one axis more.
        if there != shape and (name, there) != (MASK_TOKEN, (1, *shape)):
            faults.append(f"its {' and '.join(parts)} has shape {there}, where {shape} would fit")
    return faults


def joint_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of parts that are stacked along their first axis."""
    if len(shapes) == 1:
        return tuple(shapes[0])
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def neutral(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns what a layer without this tensor would have in its place; None if nothing does.

    Args:
      name: the original's.
      shape: of the tensor.
    """
    leaf = name.rpartition(".")[2]
    if leaf == "bias" or name == MASK_TOKEN:
        return np.zeros(shape, np.float32)
    if leaf.startswith("gamma_") or leaf == "weight_g" or ("norm" in name and leaf == "weight"):
        return np.ones(shape, np.float32)
    return None


def listed(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _all_match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return all(any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns) for n in names)
