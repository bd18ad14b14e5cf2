"""Parameters as tensors by name, and what tells one set of weights from another."""

import hashlib
from collections.abc import Mapping

import flax.traverse_util
import numpy as np

from ibot_jax.models.parameters import Params


def flat_tensors(params: Params) -> dict[str, np.ndarray]:
    """Returns parameters by "backbone.blocks_0.attn.qkv.kernel", as they are hashed."""
    return flax.traverse_util.flatten_dict(params, sep=".")


def weights_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of tensors, as 64 hexadecimal digits.

    For each, by name: the UTF-8 text "NAME DTYPE SHAPE" and a newline, then its bytes, row by row
    and little-endian; so neither file format nor order matters.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def backbone_hash(params: Params) -> str:
    """Returns the hash of a backbone, whether there is a head beside it or not."""
    return weights_hash(flat_tensors({"backbone": params["backbone"]}))
