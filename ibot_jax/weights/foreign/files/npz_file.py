"""Files of NumPy: arrays by name, left in the file until they are needed."""

import zipfile

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.deferred import Deferred
from ibot_jax.weights.foreign.files.contents import Contents

_SUFFIX = ".npy"


def takes(path: epath.Path) -> bool:
    """Returns whether `read` is to read a file."""
    return path.suffix == ".npz"


def read(path: epath.Path) -> Contents:
    """Reads the headers of a file; raises a UserError if it is damaged or holds nothing."""
    tensors, name = {}, ""
    try:
        with zipfile.ZipFile(path.open("rb")) as archive:
            for entry in archive.namelist():
                name = entry.removesuffix(_SUFFIX)
                tensors[name] = _deferred(archive, entry, path)
    except Exception as error:  # of zipfile, zlib and NumPy
        raise UserError(
            f"{path} cannot be read as arrays by name{name and f' at {name}'} ({error})"
        ) from error
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return Contents("NumPy arrays", {"": tensors})


def _deferred(archive: zipfile.ZipFile, entry: str, path: epath.Path) -> Deferred:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0}
        read_header = header.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python's objects, which are never read")
    # NumPy's format has no name for bfloat16, and calls it two bytes.
    is_bfloat16 = dtype == "V2"

    def read_array() -> np.ndarray:
        with np.load(path.open("rb"), allow_pickle=False) as file:
            array = file[entry.removesuffix(_SUFFIX)]
        return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array

    return Deferred(shape, np.dtype(ml_dtypes.bfloat16) if is_bfloat16 else dtype, read_array)
