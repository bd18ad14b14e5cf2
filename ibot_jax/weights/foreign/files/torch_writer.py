"""Writes files that torch.load reads, also with weights_only=True, without PyTorch.

The pickle in such a file names classes of PyTorch, which Python's pickle module writes only where
they can be imported; so its few opcodes are put together here (pickle protocol 2).
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from ibot_jax.weights.deferred import Array
from ibot_jax.weights.foreign.files.torch_reader import STORAGES

Tree = Mapping[str, "Tree | Array | str | int"]

_ALIGNMENT = 64  # of storages in the file, as torch.save has it, so that they can be mapped
_FOLDER = "archive"


def torch_bytes(tree: Tree) -> bytes:
    """Returns what `write_torch` writes."""
    buffer = io.BytesIO()
    write_torch(buffer, tree)
    return buffer.getvalue()


def write_torch(file: BinaryIO, tree: Tree) -> None:
    """Writes the file that torch.save would write of nested dicts.

    Args:
      file: to write to and seek in.
      tree: dicts whose leaves are arrays (tensors of which share no memory), text or integers; of
        arrays that are `Deferred` one at a time is in memory.
    """
    arrays: list[Array] = []
    program = b"\x80\x02" + _pickled(tree, arrays) + b"."
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, file, "data.pkl", program)
        _add(archive, file, "byteorder", b"little")
        for key, array in enumerate(arrays):
            little = np.asarray(array, array.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{key}", little.tobytes())
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    start = file.tell() + zipfile.sizeFileHeader + len(info.filename) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(info, content)


def _pickled(value: Tree | Array | str | int, arrays: list[Array]) -> bytes:
    """Returns the opcodes that push a value; arrays found on the way are appended to `arrays`."""
    if isinstance(value, Mapping):
        items = [_text(key) + _pickled(item, arrays) for key, item in value.items()]
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _integer(value)
    arrays.append(value)
    strides = [math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape))]
    storage = (
        _text("storage")
        + _global("torch", _storage_name(value.dtype))
        + _text(str(len(arrays) - 1))
        + _text("cpu")
        + _integer(value.size)
    )
    arguments = (
        b"(" + storage + b"tQ",  # the persistent id
        _integer(0),
        b"(" + b"".join(map(_integer, value.shape)) + b"t",
        b"(" + b"".join(map(_integer, strides)) + b"t",
        b"\x89",  # requires_grad=False
        _global("collections", "OrderedDict") + b")R",  # backward hooks: none
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(arguments) + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _storage_name(dtype: np.dtype) -> str:
    return next(name for name, stored in STORAGES.items() if stored == dtype)
