"""What is looked at before a checkpoint's arrays are read, and how a failure is told."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError


@contextlib.contextmanager
def readable(folder: epath.Path) -> Iterator[None]:
    """Turns whatever Orbax's threads meet in reading a checkpoint into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{folder} cannot be read ({reason}); restore it, or move it elsewhere: then an "
            "earlier one is taken"
        ) from error


def check_shapes(folder: epath.Path, name: str, like: Any) -> None:
    """Compares the saved shapes of a part with those of `like`, tensor by tensor."""
    with ocp.StandardCheckpointer() as checkpointer:
        saved = _shapes(checkpointer.metadata(folder / name).item_metadata.tree)
    wanted = _shapes(like)
    for tensor in sorted(saved.keys() | wanted.keys()):
        if saved.get(tensor) != wanted.get(tensor):
            raise UserError(
                f"{folder} does not fit this config: {name}/{tensor} has shape "
                f"{saved.get(tensor, 'none')} there and {wanted.get(tensor, 'none')} here; "
                "make model, head, input size and optimiser equal"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def require_shapes(params: Any, described: Any, name: str) -> None:
    """Makes sure that parameters are those of the architecture which their config describes.

    Args:
      params: of a model.
      described: arrays or jax.ShapeDtypeStructs, as the config has them.
      name: of the model.

    Raises:
      UserError: that names the first tensor which is not.
    """
    wanted, found = _shapes(described), _shapes(params)
    for tensor in sorted(wanted.keys() | found.keys()):
        if wanted.get(tensor) != found.get(tensor):
            raise UserError(
                f"{name} holds weights of another architecture than its config: {tensor} is "
                f"{found.get(tensor, 'absent')}, not {wanted.get(tensor, 'absent')}; restore the "
                "one or the other"
            )
