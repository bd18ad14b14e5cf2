"""Reading pickles of others, which could hold any program, without running what they hold."""

import importlib
import io
import pickle
from typing import Any

from ibot_jax.errors import UserError

# What NumPy's pickles call, under the names of its older and newer releases.
_NUMPY = {
    "numpy": ("ndarray", "dtype"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
}
_ALLOWED = {(module, name) for module, names in _NUMPY.items() for name in names}
_ALLOWED |= {("builtins", name) for name in ("set", "frozenset", "complex", "bytearray")}
_ALLOWED |= {("_codecs", "encode")}  # how Python 3 writes bytes for Python 2


def loads(content: bytes, name: str) -> Any:
    """Returns what a pickle of lists, dicts, numbers, strings and NumPy arrays holds.

    Args:
      content: of the file, written by Python 2 or 3.
      name: of the file, for errors.

    Raises:
      UserError: if it holds anything else, which is not run, or is damaged.
    """
    try:
        # Python 2's strings come as they are in NumPy's buffers; names in them are ASCII.
        return _Unpickler(io.BytesIO(content), name).load()
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise many kinds
        raise UserError(f"{name} is damaged: it is no pickle ({error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str):
        super().__init__(file, encoding="latin1")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core", 1).replace("__builtin__", "builtins")
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._name} calls {module}.{name}; only lists, dicts, numbers, strings and "
                "NumPy arrays are read from a pickle, for anything else could be a program"
            )
        return getattr(importlib.import_module(module), name)
