"""Writes files that torch.load reads, also with weights_only=True, without PyTorch.

The pickle in such a file names classes of PyTorch, which Python's pickle module writes only where
they can be imported; so its few opcodes are put together here (pickle protocol 2).
"""

import io
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from ibot_jax.weights.foreign.files.torch_reader import STORAGES

Tree = Mapping[str, "Tree | np.ndarray | str | int"]

_ALIGNMENT = 64  # of storages in the file, as torch.save has it, so that they can be mapped
_FOLDER = "archive"


def torch_bytes(tree: Tree) -> bytes:
    """Returns the file that torch.save would write of nested dicts.

    Args:
      tree: dicts whose leaves are arrays (tensors of which share no memory), text or integers.
    """
    arrays: list[np.ndarray] = []
    program = b"\x80\x02" + _pickled(tree, arrays) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, buffer, "data.pkl", program)
        _add(archive, buffer, "byteorder", b"little")
        for key, array in enumerate(arrays):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _add(archive, buffer, f"data/{key}", little.tobytes())
        _add(archive, buffer, "version", b"3\n")
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    start = buffer.tell() + zipfile.sizeFileHeader + len(info.filename) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(info, content)


def _pickled(value: Tree | np.ndarray | str | int, arrays: list[np.ndarray]) -> bytes:
    """Returns the opcodes that push a value; arrays found on the way are appended to `arrays`."""
    if isinstance(value, Mapping):
        items = [_text(key) + _pickled(item, arrays) for key, item in value.items()]
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _integer(value)
    array = np.asarray(value)
    arrays.append(array)
    strides = [stride // array.itemsize for stride in np.empty_like(array, order="C").strides]
    storage = (
        _text("storage")
        + _global("torch", _storage_name(array.dtype))
        + _text(str(len(arrays) - 1))
        + _text("cpu")
        + _integer(array.size)
    )
    arguments = (
        b"(" + storage + b"tQ",  # the persistent id
        _integer(0),
        b"(" + b"".join(map(_integer, array.shape)) + b"t",
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
