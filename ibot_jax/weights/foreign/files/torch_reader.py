"""Reads the files that torch.save writes, without PyTorch and without running what is in them.

Such a file is a zip archive: a pickle, and the bytes of each storage beside it. A pickle is a
program, which may call whatever can be imported. Here it may name nothing but the entries of
`_allowed`, which build plain data; anything else ends the reading before it is called.
"""

import collections
import dataclasses
import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError

# torch.FloatStorage and its like, as NumPy dtypes.
STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
# torch.float32 and its like. Storages of the newer ones have no type of their own.
_DTYPES = {
    **{
        name: np.dtype(name)
        for name in ("float32", "float64", "float16", "complex64", "complex128", "bool")
    },
    **{
        f"{sign}int{bits}": np.dtype(f"{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            "bfloat16",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        )
    },
}
_UNTYPED = "UntypedStorage"
_MAX_PICKLE = 2**28  # bytes; names and shapes of the largest models take a few MiB
_MAX_EXPANDED = 2**28  # elements of a tensor that repeats what it has in its file


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file; every attribute is whatever the file says.

    Attributes:
      archive: the file.
      entry: of the archive that holds its storage.
      dtype: of the storage.
      offset: of the first element in the storage, in elements, as are strides.
      shape: of the tensor.
      strides: of each axis.
    """

    archive: zipfile.ZipFile
    entry: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns the tensor, contiguous.

        Raises:
          Exception: of many kinds, where the file is damaged or says what cannot be.
        """
        data = _read_entry(self.archive, self.entry)
        size, elements = self.dtype.itemsize, math.prod(self.shape)
        repeats = any(n > 1 and not s for n, s in zip(self.shape, self.strides, strict=True))
        if repeats and elements > _MAX_EXPANDED:
            raise ValueError(f"it repeats {self.entry} up to the shape {self.shape}")
        if not repeats and elements * size > len(data):
            raise ValueError(f"{self.entry} has fewer bytes than its tensor of shape {self.shape}")
        strides = tuple(stride * size for stride in self.strides)
        # NumPy checks that shape, offset and strides stay inside the buffer.
        view = np.ndarray(self.shape, self.dtype, data, self.offset * size, strides)
        return np.array(view, order="C")


def is_torch_file(path: epath.Path) -> bool:
    """Returns whether a file may be what torch.save writes: a zip archive, or a bare pickle."""
    with path.open("rb") as file:
        start = file.read(4)
    return start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")


def read_torch(path: epath.Path) -> Any:
    """Reads a file that torch.save has written, of which the tensors are left in the file.

    Args:
      path: of the file, which has to stay while `StoredTensor`s are read.

    Returns:
      What was saved: dicts, lists, numbers, text, `StoredTensor`s; an argparse.Namespace is a dict.

    Raises:
      UserError: if the file is of another kind or damaged, or asks for anything but plain data.
    """
    try:
        archive = zipfile.ZipFile(path.open("rb"))
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is no zip archive: it is damaged, or was written before PyTorch 1.6; there "
            "load it and save it again with a newer PyTorch"
        ) from None
    try:
        (program,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    except ValueError:
        raise UserError(
            f"{path} was not written by torch.save: there is no data.pkl in it"
        ) from None
    folder = program.removesuffix("data.pkl")
    try:
        if archive.getinfo(program).file_size > _MAX_PICKLE:
            raise ValueError("its pickle is too large")
        order = "<"
        if f"{folder}byteorder" in archive.namelist():
            order = {b"little": "<", b"big": ">"}[_read_entry(archive, f"{folder}byteorder")]
        pickled = io.BytesIO(_read_entry(archive, program))
        return _Unpickler(pickled, path, archive, folder, order).load()
    except UserError:
        raise
    except Exception as error:  # pickle and zipfile raise nearly every kind
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def _read_entry(archive: zipfile.ZipFile, entry: str) -> bytes:
    if archive.getinfo(entry).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry} is compressed, which torch.save never does")
    return archive.read(entry)


class _Unpickler(pickle.Unpickler):
    """Builds plain data; see the module."""

    def __init__(
        self, file: io.BytesIO, path: epath.Path, archive: zipfile.ZipFile, folder: str, order: str
    ):
        super().__init__(file)
        self._path = path
        self._archive = archive
        self._folder = folder
        self._order = order
        self._names = _allowed(archive, order)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._names:
            raise UserError(
                f"{self._path} wants to call {full}, which no file of weights needs; nothing of it "
                "was run. If you trust it, save its state_dict alone, with PyTorch"
            )
        return self._names[full]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        """Returns the archive's entry of a storage, and its dtype."""
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not (dtype == _UNTYPED or isinstance(dtype, np.dtype)):
            raise ValueError(f"{pid!r} is no storage")
        if dtype != _UNTYPED:
            dtype = dtype.newbyteorder(self._order)
        return f"{self._folder}data/{key}", dtype


def _allowed(archive: zipfile.ZipFile, order: str) -> dict[str, Any]:
    """Returns what a pickle may name: stand-ins that build plain data.

    They are made anew for each file, since a pickle can set attributes of whatever it names.
    """

    class Namespace(dict):
        def __setstate__(self, state):
            self.update(state)

    class NumpyDtype:
        def __new__(cls, name, *_):
            if not re.fullmatch(r"[fiub][1248]", name):
                raise ValueError(f"a NumPy scalar of dtype {name!r}")
            made = super().__new__(cls)
            made.name = name
            return made

        def __setstate__(self, state):
            pass  # byte order and alignment; scalars of this machine's order are all there is

    def rebuild_tensor(storage, offset, shape, strides, *_):
        entry, dtype = storage
        return StoredTensor(archive, entry, dtype, offset, tuple(shape), tuple(strides))

    def rebuild_untyped(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
        del requires_grad, hooks
        entry, _ = storage
        dtype = _DTYPES[dtype.removeprefix("torch.")].newbyteorder(order)
        return StoredTensor(archive, entry, dtype, offset, tuple(shape), tuple(strides))

    def numpy_scalar(dtype, data):
        return np.frombuffer(data, np.dtype(dtype.name))[0].item()

    def encode(text, encoding):
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as {encoding!r}")
        return text.encode("latin1")

    scalars: dict[str, Callable] = {
        f"numpy.{core}.multiarray.scalar": numpy_scalar for core in ("core", "_core")
    }
    return {
        **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
        **{f"torch.{name}": name for name in _DTYPES},
        **scalars,
        "numpy.dtype": NumpyDtype,
        "_codecs.encode": encode,
        "argparse.Namespace": Namespace,
        "collections.OrderedDict": collections.OrderedDict,
        "torch.Size": tuple,
        "torch.device": lambda *place: ":".join(map(str, place)),
        "torch._utils._rebuild_tensor_v2": rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": rebuild_untyped,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.storage.UntypedStorage": _UNTYPED,
    }
