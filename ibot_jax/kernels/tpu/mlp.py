"""The MLP's branch of a block on a TPU: norm, both products, GELU and residual as one kernel.

XLA lets the matrix units wait where it forms GELU or its slope beside a product, and passes over
the tokens again for the norm, the residual and the sums of the biases' gradients. Here hidden units
are worked through by the 256: while the matrix units multiply one part, the vector units have
another. The forward pass keeps them as they are before GELU.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.gelu import value_and_slope
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON
from ibot_jax.kernels.specs import MlpBranchSpec, Spec, anything, covers
from ibot_jax.kernels.tpu import branch as tpu_branch
from ibot_jax.kernels.tpu.branch import product, sum_of_rows
from ibot_jax.kernels.tpu.cores import Cores, cores_of

Array = jax.Array

_COLUMNS = 256  # hidden units at a time
_TILE = 16  # rows that a register has of bfloat16
_MOST_ROWS = 512  # of a step of the grid, and
_FEWEST_ROWS = 128  # of one that keeps the matrix units busy
# Of a core's memory for a row, where what comes and goes is there twice:
_BYTES = 10  # for each of its numbers, [D] and [F], and
_BYTES_OF_GAIN = 1024  # for its gain, which is laid out as 128


_KNOWN = {
    **dict.fromkeys(("rows", "width", "hidden"), anything),
    "dtype": ("bfloat16",),
    "activation": ("gelu",),
    "norm": ("layer",),
    "epsilon": (LAYER_NORM_EPSILON,),
    "gains": (False, True),
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `branch` computes this on such a device."""
    return (
        isinstance(spec, MlpBranchSpec)
        and (device.platform == "tpu" and not device.partitioned and device.tensor == 1)
        and covers(_KNOWN, spec)
        and fits(spec.width, spec.hidden, cores_of(device.kind))
    )


def fits(width: int, hidden: int, cores: Cores) -> bool:
    """Returns whether a core's memory takes the weights and enough rows of tokens [R, width]."""
    whole = width % 128 == 0 and hidden % _COLUMNS == 0
    return whole and _most_rows(width, hidden, cores) >= _FEWEST_ROWS


def branch(
    x: Array, params: dict, gains: Array | None, spec: MlpBranchSpec, device: Device
) -> Array:
    """Does what `kernels.branch.branch` does.

    Products are of x's dtype, all else is float32, GELU is that of bfloat16 (`gelu`). On other
    platforms than a TPU the same kernels are interpreted, which is slow.
    """
    cores = cores_of(device.kind)
    gains = jnp.ones((len(x), 1), jnp.float32) if gains is None else gains
    step = _rows_of_a_step(len(x), _most_rows(spec.width, spec.hidden, cores), cores)
    return _add(*tpu_branch.pad_rows((x, gains), step, cores), params, step, cores)[: len(x)]


def _most_rows(width: int, hidden: int, cores: Cores) -> int:
    """Returns how many rows a core's memory has room for beside the weights."""
    room = cores.memory - tpu_branch.size_of_weights(2 * width * hidden)
    return min(_MOST_ROWS, room // (_BYTES * (width + hidden) + _BYTES_OF_GAIN))


def _rows_of_a_step(rows: int, most: int, cores: Cores) -> int:
    """Returns how many rows to take at a time: the most that leave no rest, unless they are few."""
    sizes = range(_TILE, most + 1, _TILE)
    without_rest = max((size for size in sizes if rows % (cores.count * size) == 0), default=0)
    if without_rest >= _FEWEST_ROWS:
        return without_rest
    return min(sizes[-1], pl.cdiv(rows, cores.count * _TILE) * _TILE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _add(x, gains, params, step, cores):
    return _run(mlp_only, (x, gains), params, (x,), step, cores, products=2)[0]


def _add_forward(x, gains, params, step, cores):
    hidden = jax.ShapeDtypeStruct((len(x), params["fc1"]["bias"].size), x.dtype)
    out, hidden = _run(mlp_forward, (x, gains), params, (x, hidden), step, cores, products=2)
    return out, (x, gains, params, hidden)


def _add_backward(step, cores, residuals, gradient):
    x, gains, params, hidden = residuals
    inputs = (x, gains, hidden, gradient)
    by_x, by_params = _run(
        mlp_backward, inputs, params, (x,), step, cores, products=4, with_gradients=True
    )
    return by_x, jnp.zeros_like(gains), by_params


_add.defvjp(_add_forward, _add_backward)


def _run(kernel, inputs, params, outputs, step, cores, products, **kwargs):
    rows, size = len(inputs[0]), params["fc1"]["kernel"].size
    return tpu_branch.run_branch(
        kernel,
        kernel.__name__,
        inputs,
        params,
        outputs,
        step=step,
        cores=cores,
        flops=products * 2 * rows * size,
        transcendentals=rows * params["fc1"]["bias"].size,
        **kwargs,
    )


def mlp_only(x, gains, params, out):
    """Computes the outputs of some rows."""
    _forward(x, gains, params, out, None)


def mlp_forward(x, gains, params, out, kept):
    """Computes the outputs of some rows, and keeps their hidden units before GELU."""
    _forward(x, gains, params, out, kept)


def _forward(x, gains, params, out, kept):
    normed = tpu_branch.norm(x[...], params["norm"])
    branch = params["fc2"]["bias"][...]
    for columns in _parts(params):
        hidden = product(normed.out, params["fc1"]["kernel"][:, columns])
        hidden += params["fc1"]["bias"][:, columns]
        if kept is not None:
            kept[:, columns] = hidden.astype(kept.dtype)
        activation = value_and_slope(hidden)[0].astype(x.dtype)
        branch += product(activation, params["fc2"]["kernel"][columns])
    out[...] = (normed.tokens + gains[...] * branch).astype(out.dtype)


def mlp_backward(x, gains, hidden, gradient, params, by_x, sums):
    """Computes the gradient of some rows, and adds theirs to those of the parameters."""
    normed = tpu_branch.norm(x[...], params["norm"])
    by_out = gradient[...].astype(jnp.float32)
    by_branch = gains[...] * by_out
    sums["fc2"]["bias"][...] += sum_of_rows(by_branch)
    by_branch = by_branch.astype(x.dtype)
    by_normed = 0.0
    for columns in _parts(params):
        activation, slope = value_and_slope(hidden[:, columns].astype(jnp.float32))
        by_hidden = product(by_branch, params["fc2"]["kernel"][columns], 1, 1) * slope
        sums["fc1"]["bias"][:, columns] += sum_of_rows(by_hidden)
        by_hidden = by_hidden.astype(x.dtype)
        by_normed += product(by_hidden, params["fc1"]["kernel"][:, columns], 1, 1)
        sums["fc1"]["kernel"][:, columns] += product(normed.out, by_hidden, 0, 0)
        sums["fc2"]["kernel"][columns] += product(activation.astype(x.dtype), by_branch, 0, 0)
    by_tokens = tpu_branch.norm_gradient(by_normed, normed, params["norm"], sums["norm"])
    by_x[...] = (by_out + by_tokens).astype(by_x.dtype)


def _parts(params):
    return [slice(i, i + _COLUMNS) for i in range(0, params["fc1"]["bias"].shape[1], _COLUMNS)]
