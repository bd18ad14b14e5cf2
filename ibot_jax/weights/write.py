"""Writes models to files and folders, each whole or not at all, with a model card beside it.

A folder has its card in README.md; a file NAME has it beside it, in NAME.md.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed, write_bytes, write_json, writing
from ibot_jax.files.json_files import as_json
from ibot_jax.files.paths import absolute_path, require_writable
from ibot_jax.models.parameters import Params
from ibot_jax.screen.progress import progress
from ibot_jax.weights.deferred import Array
from ibot_jax.weights.formats import CONFIG, PARAMS

CARD = "README.md"
_SUFFIXES = {"npz": ".npz", "safetensors": ".safetensors"}  # of files that are known by them
_SAFETENSORS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16"}  # dtypes of weights


def target_of(out: str, to: str) -> epath.Path:
    """Returns the absolute path of an export, which ends in what its format is known by.

    Args:
      out: what the user gives.
      to: the format.

    Raises:
      UserError: if its bucket cannot be reached; see `paths.absolute_path`.
    """
    path = absolute_path(out)
    suffix = _SUFFIXES.get(to, path.suffix)
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def written_words(target: epath.Path, out: str, to: str) -> str:
    """Returns what was written where, and that it has another name than the user gave."""
    added = "" if out.rstrip("/").endswith(target.name) else f"; {target.suffix} was added"
    return f"{target} ({to}{added})"


def check_target(target: epath.Path, *, folder_of: tuple[str, ...] | None, overwrite: bool) -> None:
    """Makes sure that nothing but an earlier export of the same kind is replaced, and if asked.

    Args:
      target: what is to be written.
      folder_of: the names that such a folder may hold; None for a file.
      overwrite: whether an earlier export may be replaced.

    Raises:
      UserError: if `target` may not be written.
    """
    card = target.with_name(f"{target.name}.md")
    for path in (target,) if folder_of else (target, card):
        if path.exists() and not overwrite:
            raise UserError(
                f"--out={path} exists; choose another path, or replace it by --overwrite"
            )
    require_writable(target, "--out")
    if not target.exists():
        return
    if target.is_dir() != bool(folder_of):
        needed = "a folder" if folder_of else "a file"
        raise UserError(f"--out={target} exists and is not {needed}; choose another path")
    if folder_of and not {path.name for path in target.iterdir()} <= set(folder_of):
        raise UserError(f"--out={target} holds more than an earlier export; choose another path")


def write_orbax(target: epath.Path, params: Params, description: Any, card: str) -> None:
    """Writes TARGET/params, TARGET/README.md and, last, TARGET/config.json."""
    write_items(target, {PARAMS: params}, description, card)


def write_items(
    target: epath.Path, items: Mapping[str, Params], description: Any, card: str
) -> None:
    """Writes TARGET/NAME, an Orbax checkpoint, for each item; then its card and config.json."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with renamed(target) as temporary, ocp.StandardCheckpointer() as checkpointer:
        for name, tree in items.items():
            checkpointer.save(temporary / name, jax.tree.map(np.asarray, tree))
        checkpointer.wait_until_finished()
        (temporary / CARD).write_text(card)
    # Last, and on its own: a bucket renames a folder file by file.
    write_json(target / CONFIG, description)


def write_npz(target: epath.Path, params: Params, description: Any, card: str) -> None:
    """Writes arrays by "backbone/blocks_0/attn/qkv/kernel", the description as "config"."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    with written(target, card) as file:
        np.savez(file, config=as_json(description), **flat)


def write_safetensors(target: epath.Path, params: Params, description: Any, card: str) -> None:
    """Writes tensors by "backbone.blocks_0.attn.qkv.kernel", the description as "config"."""
    tensors = flax.traverse_util.flatten_dict(params, sep=".")
    with written(target, card) as file:
        save_safetensors(file, tensors, {"config": as_json(description)})


def save_safetensors(
    file: BinaryIO, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Writes a file of safetensors, one tensor after the other, of which one is in memory."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    # The widest come first, so that each lies where its dtype may.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        kind, shape = _SAFETENSORS[tensor.dtype.name], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in progress(names, len(names), "tensors"):  # which may be read only now
        file.write(np.asarray(tensors[name]).tobytes())


# By format: whoever writes {"backbone": ..., "head": ...} so that `load.load` reads it.
OWN_FORMATS: dict[str, Callable[[epath.Path, Params, Any, str], None]] = {
    "orbax": write_orbax,
    "npz": write_npz,
    "safetensors": write_safetensors,
}
FOLDERS = {"orbax": (PARAMS, CONFIG, CARD)}  # what each format that is a folder holds


@contextlib.contextmanager
def written(target: epath.Path, card: str) -> Iterator[BinaryIO]:
    """Yields a file to write to, see `atomic.writing`, and writes its card beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as file:
        yield file
    write_bytes(target.with_name(f"{target.name}.md"), card.encode())
