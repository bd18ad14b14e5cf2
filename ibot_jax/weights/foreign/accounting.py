"""Every tensor accounted for: what is missing, left over or of another shape, and may it be so."""

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from ibot_jax.errors import UserError
from ibot_jax.models.architectures import ARCHITECTURES
from ibot_jax.weights.foreign.files.contents import Tensors
from ibot_jax.weights.foreign.tensor_names import FileNames

MASK_TOKEN = "backbone.masked_embed"
NO_MASK_TOKEN = "no mask token in it: zeros, which only masked images would meet"
_MAX_NAMED = 6  # tensors in a message


def account(
    names: FileNames,
    tensors: Tensors,
    expected: Sequence[str],
    path: str,
    allow: Sequence[str],
    *,
    backbone_only: bool = False,
) -> list[str]:
    """Compares the names of a file's tensors with those of a model.

    What computes tokens is as the model has it or is refused: nothing of it may be left over,
    whatever is allowed. See `FileNames.is_after_tokens` and `neutral` for what may be allowed.

    Args:
      names: how the file names them.
      tensors: of the file, by its names.
      expected: names of the model's tensors, the original's; the mask token may be missing.
      path: of the file, for messages.
      allow: patterns, as of shells, of what may be missing or left over.
      backbone_only: whether whatever reads the tokens may be left over.

    Returns:
      Notes on what is not there or not taken, all of it allowed.

    Raises:
      UserError: with the names of all tensors that are missing or left over without being allowed
        to be.
    """
    lacking, replaced = _missing(names, tensors, expected)
    foreign, surplus, notes = _left_over(
        names, tensors, expected, ("*",) if backbone_only else allow
    )
    allowable = [name for name in replaced if not _all_match([name], allow)]
    if not (lacking or foreign or surplus or allowable):
        if replaced:
            notes.append(f"missing, with neutral values in their place: {listed(replaced)}")
        return notes
    faults = []
    if missing := [*lacking, *allowable]:
        faults.append(f"it lacks {listed(missing)}")
    if foreign:
        faults.append(f"it holds {listed(foreign)} besides, with which no model here computes")
    if surplus:
        faults.append(f"it holds {listed(surplus)} besides")
    hint = ""
    if not (lacking or foreign):  # else nothing that is allowed would help
        hint = (
            ". What may be missing (biases and gains only) or left over (what reads the tokens) "
            f"can be named: --allow='{(surplus or allowable)[0]}', or with wildcards"
        )
    raise UserError(f"{_other_than_it_looks(names, path)}: {'; '.join(faults)}{hint}")


def _missing(
    names: FileNames, tensors: Tensors, expected: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Returns what is missing and cannot be, and what has a neutral value that is to be allowed."""
    lacking, replaced = [], []
    for name in expected:
        absent = [part for part in names.find(name) if part is not None and part not in tensors]
        if neutral(name) is None or _without_its_norm(names, tensors, name):
            lacking += absent
        elif name != MASK_TOKEN:
            replaced += absent
    return list(dict.fromkeys(lacking)), list(dict.fromkeys(replaced))  # once of two in one


def _without_its_norm(names: FileNames, tensors: Tensors, name: str) -> bool:
    """Returns whether it is of a norm that is missing whole: there is none, not a plain one."""
    layer = name.rpartition(".")[0]
    return "norm" in layer and not any(
        part in tensors for leaf in ("weight", "bias") for part in names.find(f"{layer}.{leaf}")
    )


def _left_over(
    names: FileNames, tensors: Tensors, expected: Sequence[str], allow: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Returns what is left over and cannot be, what must be allowed to be, and notes."""
    used = {part for name in expected for part in names.find(name)}
    with_head = any(name.startswith(("head.", "patch_head.")) for name in expected)
    foreign, surplus, permitted, of_head = [], [], [], []
    for name, tensor in tensors.items():
        if name in used:
            continue
        is_integer = np.issubdtype(tensor.dtype, np.integer)
        if names.is_head(name) and not with_head:
            of_head.append(name)
        elif not names.is_after_tokens(name, is_integer=is_integer, head=with_head):
            foreign.append(name)
        elif _all_match([name], allow):
            permitted.append(name)
        else:
            surplus.append(name)
    notes = []
    if of_head:
        notes.append(f"left out: the projection head, {len(of_head)} tensors; --head takes it")
    if permitted:
        notes.append(f"left out: {listed(permitted)}")
    return foreign, surplus, notes


def check_shapes(
    names: FileNames, tensors: Tensors, expected: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Compares shapes of a file's tensors with those expected, by the original's names.

    Raises:
      UserError: with all tensors of another shape.
    """
    faults = []
    for name, shape in expected.items():
        there = shape_of(names, tensors, name)
        # Hugging Face's mask token has one axis more.
        if there != shape and (name, there) != (MASK_TOKEN, (1, *shape)):
            parts = " and ".join(filter(None, names.find(name)))
            faults.append(f"its {parts} has shape {there}, where {shape} would fit")
    if faults:
        raise UserError(f"{_other_than_it_looks(names, path)}: {'; '.join(faults)}")


def _other_than_it_looks(names: FileNames, path: str) -> str:
    kind = ARCHITECTURES[names.dialect.arch].name
    return f"{path} does not hold the {kind} that it looks like"


def shape_of(names: FileNames, tensors: Tensors, name: str) -> tuple[int, ...] | None:
    """Returns the shape that one of the original's tensors has by its parts in a file.

    That is None where a part is missing.
    """
    parts = names.find(name)
    if any(part is not None and part not in tensors for part in parts):
        return None
    shapes = [tuple(tensors[part].shape) for part in parts if part is not None]
    shape = shapes[0]
    if len(parts) > 1 and shape:  # those that are not there are as large as the first
        rows = sum(other[0] if other else 0 for other in shapes)
        shape = (rows + (len(parts) - len(shapes)) * shape[0], *shape[1:])
    if names.dialect.half(name) is not None and shape and shape[0] % 2 == 0:
        shape = (shape[0] // 2, *shape[1:])
    if names.dialect.class_has_position and name == "backbone.pos_embed" and len(shape) == 3:
        shape = (shape[0], 1 + shape[1], shape[2])
    return shape


def neutral(name: str) -> float | None:
    """Returns what each number of a missing tensor would be in a layer that is without it.

    That is None if nothing stands in for it. The name is the original's.
    """
    leaf = name.rpartition(".")[2]
    if leaf == "bias" or name == MASK_TOKEN:
        return 0.0
    if leaf.startswith("gamma_") or leaf == "weight_g" or ("norm" in name and leaf == "weight"):
        return 1.0
    return None


def listed(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _all_match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return all(any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns) for n in names)
