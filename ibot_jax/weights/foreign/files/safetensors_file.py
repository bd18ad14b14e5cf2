"""Files of safetensors: tensors by name."""

import json

import ml_dtypes
import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.foreign.files.contents import DESCRIPTION, Contents, parse_object
from ibot_jax.weights.formats import import_safetensors

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


def read(path: epath.Path) -> Contents:
    """Reads a file; raises a UserError if it is damaged or holds what cannot be read here."""
    safetensors = import_safetensors()
    content = path.read_bytes()
    try:
        entries = dict(safetensors.deserialize(content))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except Exception as error:  # safetensors raises a kind of its own
        raise UserError(f"{path} is no safetensors file, or is damaged ({error})") from error
    tensors = {}
    for name, entry in sorted(entries.items()):
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(
                f"{path} holds {name} as {entry['dtype']}, which cannot be read here; save it as "
                "float32"
            )
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    facts = {}
    described = header.get("__metadata__", {}).get(DESCRIPTION)
    if described is not None:
        facts["description"] = parse_object(described, path)
    return Contents("safetensors", {"": tensors}, {}, facts)
