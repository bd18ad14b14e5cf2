"""Files of NumPy: arrays by name."""

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.contents import Contents


def takes(path: epath.Path) -> bool:
    """Returns whether `read` is to read a file."""
    return path.suffix == ".npz"


def read(path: epath.Path) -> Contents:
    """Reads a file; raises a UserError if it is damaged or holds nothing."""
    tensors = {}
    try:
        with np.load(path.open("rb"), allow_pickle=False) as file:
            for name in file.files:
                array = file[name]
                # NumPy's format has no name for bfloat16, and calls it two bytes.
                tensors[name] = array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array
    except Exception as error:  # of zipfile, zlib and NumPy
        where = f" behind {list(tensors)[-1]}" if tensors else ""
        raise UserError(f"{path} cannot be read as arrays by name{where} ({error})") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return Contents("NumPy arrays", {"": tensors})
