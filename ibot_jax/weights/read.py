"""Reads one part of a checkpoint or an export: what Orbax wrote, compared before it is used."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params


def read_arrays(folder: epath.Path, keys: Sequence[str] | None = None) -> Params:
    """Reads a part into the host's memory, whatever devices wrote it.

    Args:
      folder: of the part.
      keys: of its dict, such as "backbone"; no more than these is read. None for all.

    Returns:
      Nested dicts of NumPy arrays, of the dtypes that were saved.

    Raises:
      Exception: whatever Orbax's threads meet; see `readable`.
    """
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        wanted = saved if keys is None else {key: saved[key] for key in keys}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        return checkpointer.restore(folder, args=args)


def read_like(folder: epath.Path, part: str, like: Any) -> Any:
    """Reads a part onto the devices.

    Args:
      folder: of the checkpoint.
      part: its name.
      like: jax.ShapeDtypeStructs with shardings, which say how to lay it out.

    Raises:
      UserError: if a tensor has another shape, or is not there.
      Exception: whatever Orbax's threads meet; see `readable`.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder / part).item_metadata.tree
        for tensor, there, here in differing(saved, like):
            raise UserError(
                f"{folder} does not fit this config: {part}/{tensor} is {there} there and {here} "
                "here; make model, head, input size and optimiser equal"
            )
        return checkpointer.restore(folder / part, like)


@contextlib.contextmanager
def readable(path: epath.Path, remedy: str) -> Iterator[None]:
    """Turns whatever is met in reading into a UserError that says what would do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of Orbax, NumPy and safetensors, which raise many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}); {remedy}") from error


def require_shapes(params: Any, described: Any, name: str) -> None:
    """Makes sure that parameters are those of the architecture which their config describes.

    Args:
      params: of a model.
      described: arrays or jax.ShapeDtypeStructs, as the config has them.
      name: of the model.

    Raises:
      UserError: that names the first tensor which is not.
    """
    for tensor, found, wanted in differing(params, described):
        raise UserError(
            f"{name} holds weights of another architecture than its config: {tensor} is {found}, "
            f"not {wanted}; restore the one or the other"
        )


def differing(found: Any, wanted: Any) -> Iterator[tuple[str, str, str]]:
    """Yields the tensors that two trees do not have alike: name, and shapes in words."""
    found, wanted = _shapes(found), _shapes(wanted)
    for tensor in sorted(found.keys() | wanted.keys()):
        if found.get(tensor) != wanted.get(tensor):
            yield tensor, *(str(shapes.get(tensor, "absent")) for shapes in (found, wanted))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
