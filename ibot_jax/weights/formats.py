"""What `ibot_jax.export` and `ibot_jax.convert` write for this project itself, read again."""

import json
import types
import zipfile
from typing import Any

import flax.traverse_util
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.models.parameters import Params
from ibot_jax.weights.checkpoints import is_checkpoint
from ibot_jax.weights.read import read_arrays

PARAMS, CONFIG = "params", "config.json"  # what an Orbax export consists of
SETS = ("teacher", "student")  # what a checkpoint to start from has in place of `PARAMS`


def is_exported_folder(path: epath.Path) -> bool:
    """Returns whether a folder may be an export, with either of the above in it."""
    return not is_checkpoint(path) and any((path / name).is_dir() for name in (PARAMS, *SETS))


def read_exported(source: epath.Path, path: str, weights: str) -> tuple[dict[str, Any], Params]:
    """Reads an export of any kind.

    Args:
      source: its path.
      path: as the user wrote it, for messages.
      weights: "teacher" or "student", of a folder that has both.

    Returns:
      Its description, and its parameters as NumPy arrays.

    Raises:
      UserError: if it is none, or is damaged.
    """
    try:
        if source.is_dir():
            folder = next(source / name for name in (PARAMS, weights) if (source / name).is_dir())
            params = read_arrays(folder)
            description = json.loads((source / CONFIG).read_text())
            if folder.name in SETS:  # it holds both, whatever its description says
                description["weights"] = folder.name
            return _object(description), params
        if source.suffix == ".npz":
            if not is_own_npz(source):
                raise UserError(
                    f"{path} has no config in it: it is no export of ibot_jax; convert it first: "
                    "python -m ibot_jax.convert"
                )
            with np.load(source.open("rb"), allow_pickle=False) as file:
                flat = {name: file[name] for name in file.files}
            config = json.loads(str(flat.pop("config")))
            return _object(config), flax.traverse_util.unflatten_dict(flat, sep="/")
        if source.suffix == ".safetensors":
            return _read_safetensors(source)
    except UserError:
        raise
    except Exception as error:  # Orbax, NumPy and safetensors raise many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no export of ibot_jax, or is damaged ({reason})") from error
    raise UserError(
        f"{path} is no .npz, .safetensors or Orbax export; weights of other projects are "
        "converted first: python -m ibot_jax.convert"
    )


def _object(description: Any) -> dict[str, Any]:
    if not isinstance(description, dict):
        raise ValueError(f"its config is a {type(description).__name__}")
    return description


def import_safetensors() -> types.ModuleType:
    """Returns the package `safetensors`, with its part for NumPy.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError(
            "safetensors files need a package that is not here: pip install ibot-jax[export]"
        ) from None
    return safetensors


def is_own_npz(path: epath.Path) -> bool:
    """Returns whether a file is a .npz file that this project wrote for itself, damaged or not."""
    if path.suffix != ".npz":
        return False
    try:
        with zipfile.ZipFile(path.open("rb")) as file:
            return "config.npy" in file.namelist()
    except zipfile.BadZipFile:
        return True


def is_own_safetensors(path: epath.Path) -> bool:
    """Returns whether a file is a safetensors file that this project wrote for itself."""
    return path.suffix == ".safetensors" and "config" in _safetensors_metadata(path)


def _safetensors_metadata(path: epath.Path) -> dict[str, str]:
    """Returns the texts at the beginning of a safetensors file; none if it is something else."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(min(length, 2**27))).get("__metadata__", {})
        except (ValueError, AttributeError):
            return {}


def _read_safetensors(source: epath.Path) -> tuple[dict[str, Any], Params]:
    safetensors = import_safetensors()
    metadata = _safetensors_metadata(source)
    if "config" not in metadata:
        raise UserError(
            f"{source} has no config in it: it is no export of ibot_jax; convert it first: "
            "python -m ibot_jax.convert"
        )
    flat = safetensors.numpy.load(source.read_bytes())
    return _object(json.loads(metadata["config"])), flax.traverse_util.unflatten_dict(flat, sep=".")
