"""Linear layers as functions of their parameters, and how exact their products are."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def matmul_precision(dtype: Any) -> str:
    """Returns how exact a program's products have to be, for `jax.default_matmul_precision`.

    Accelerators multiply float32 in bfloat16 or TF32 unless told otherwise.
    """
    return "default" if jnp.dtype(dtype) == jnp.bfloat16 else "highest"


def linear(x: Array, params: dict[str, Array], dtype: jnp.dtype) -> Array:
    """Maps [..., inputs] to [..., outputs] in `dtype`.

    Args:
      x: floating.
      params: {"kernel": [inputs, outputs], "bias": [outputs]}, the bias by option.
      dtype: of product and result; the bias has its gradient in its own.
    """
    product = x.astype(dtype) @ params["kernel"].astype(dtype)
    return add_bias(product, params["bias"]) if "bias" in params else product


def add_bias(x: Array, bias: Array) -> Array:
    """Adds a bias [D] to [..., D], of the dtype of the latter.

    It is cast where it lies beside every row: the gradient is then cast before it is summed over
    the rows, and not after. In bfloat16 that is more exact, and on a TPU twice as fast.
    """
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)
