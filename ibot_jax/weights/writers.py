"""Writes models to files and folders, each whole or not at all, with a model card beside it.

A folder has its card in README.md; a file NAME has it beside it, in NAME.md.
"""

import contextlib
import io
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path, reason_of, require_writable
from ibot_jax.optim.optimizer import Params
from ibot_jax.parallel import signals
from ibot_jax.weights.formats import CONFIG, PARAMS, import_safetensors

CARD = "README.md"
_SUFFIXES = {"npz": ".npz", "safetensors": ".safetensors"}  # of files that are known by them


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


@contextlib.contextmanager
def told_by_path(out: str) -> Iterator[None]:
    """Turns whatever prevents writing into a UserError that names the path."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax passes on whatever its threads meet
        raise UserError(
            f"--out={out} cannot be written ({reason_of(error)}); choose another path"
        ) from error


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
            checkpointer.save(temporary / name, tree)
        checkpointer.wait_until_finished()
        (temporary / CARD).write_text(card)
    # Last, and on its own: a bucket renames a folder file by file.
    write_bytes(target / CONFIG, as_json(description).encode())


def write_npz(target: epath.Path, params: Params, description: Any, card: str) -> None:
    """Writes arrays by "backbone/blocks_0/attn/qkv/kernel", the description as "config"."""
    buffer = io.BytesIO()
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    np.savez(buffer, config=as_json(description), **flat)
    write_file(target, buffer.getvalue(), card)


def write_safetensors(target: epath.Path, params: Params, description: Any, card: str) -> None:
    """Writes tensors by "backbone.blocks_0.attn.qkv.kernel", the description as "config"."""
    tensors = flax.traverse_util.flatten_dict(params, sep=".")
    metadata = {"config": as_json(description)}
    write_file(target, import_safetensors().numpy.save(tensors, metadata=metadata), card)


# By format: whoever writes {"backbone": ..., "head": ...} so that `load.load` reads it.
OWN_FORMATS: dict[str, Callable[[epath.Path, Params, Any, str], None]] = {
    "orbax": write_orbax,
    "npz": write_npz,
    "safetensors": write_safetensors,
}
FOLDERS = {"orbax": (PARAMS, CONFIG, CARD)}  # what each format that is a folder holds


def as_json(value: Any) -> str:
    """Returns a value as an indented JSON text with a newline at its end."""
    return json.dumps(value, indent=2) + "\n"


def write_file(target: epath.Path, content: bytes, card: str) -> None:
    """Writes a file, and its card beside it; missing parents are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    write_bytes(target.with_name(f"{target.name}.md"), card.encode())


def write_bytes(target: epath.Path, content: bytes) -> None:
    """Writes a file under a temporary name, which is its own only when it is whole."""
    with renamed(target) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def renamed(target: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path beside `target`, which takes its place if all goes well."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with signals.before_end(lambda: _remove(temporary)):
            yield temporary
            if target.is_dir():
                target.rmtree()
            temporary.replace(target)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: epath.Path, *, quiet_s: float = 1.0, limit_s: float = 10.0) -> None:
    """Removes what a failed export left, and raises nothing: the failure is what is to be told.

    Orbax reports the first failure while other threads still write and make their folders anew, so
    the path has to stay away for a moment.
    """
    end = time.monotonic() + limit_s
    gone_since = time.monotonic()
    while (now := time.monotonic()) < end and now - gone_since < quiet_s:
        if path.exists():
            with contextlib.suppress(OSError):
                path.rmtree() if path.is_dir() else path.unlink()
            gone_since = time.monotonic()
        time.sleep(0.05)
