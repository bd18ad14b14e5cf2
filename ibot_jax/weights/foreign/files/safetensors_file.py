"""Files of safetensors: tensors by name, left in the file until they are needed."""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.contents import DESCRIPTION, Contents, parse_object

_MAX_HEADER = 100_000_000  # bytes, as safetensors itself has it
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def takes(path: epath.Path) -> bool:
    """Returns whether `read` is to read a file."""
    return path.suffix == ".safetensors"


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor that is still in its file.

    Attributes:
      path: of the file.
      start: of its first byte there.
      dtype: of the tensor.
      shape: of the tensor.
    """

    path: epath.Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns the tensor."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            content = file.read(math.prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape)


def read(path: epath.Path) -> Contents:
    """Reads a file's header; raises a UserError if it is damaged or holds what is unknown here."""
    try:
        header, start, length = _header(path)
        metadata = header.pop("__metadata__", {})
        tensors = {
            name: _tensor(header[name], name, path, start, length) for name in sorted(header)
        }
        described = metadata.get(DESCRIPTION)
    except UserError:
        raise
    except Exception as error:  # what a file may say of shapes and places has no end
        raise UserError(f"{path} is no safetensors file, or is damaged ({error})") from error
    facts = {} if described is None else {"description": parse_object(described, path)}
    return Contents("safetensors", {"": tensors}, {}, facts)


def _header(path: epath.Path) -> tuple[dict[str, Any], int, int]:
    """Returns what a file says of its tensors, where these start, and how many bytes there are."""
    size = path.stat().length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = parse_object(file.read(length), path)
    return header, 8 + length, size - 8 - length


def _tensor(
    entry: dict[str, Any], name: str, path: epath.Path, start: int, length: int
) -> FileTensor:
    if entry["dtype"] not in _DTYPES:
        raise UserError(
            f"{path} holds {name} as {entry['dtype']}, which cannot be read here; save it as "
            "float32"
        )
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(map(int, entry["shape"]))
    first, last = map(int, entry["data_offsets"])
    fits = min((*shape, 0)) >= 0 and math.prod(shape) * dtype.itemsize == last - first
    if not (fits and 0 <= first <= last <= length):
        raise ValueError(f"{name} of shape {shape} lies in bytes {first} to {last} of {length}")
    return FileTensor(path, start + first, dtype, shape)
