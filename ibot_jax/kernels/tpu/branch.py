"""What the kernels of a block's two branches share, each of which is x + gains * f(norm(x)).

Some rows of tokens at a time lie in a TPU's vector memory with all weights of the branch. The
backward pass sums the gradients of the parameters in float32 as it goes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON
from ibot_jax.kernels.tpu.cores import Cores
from ibot_jax.kernels.tpu.kernel import run_kernel

Array = jax.Array


def size_of_weights(count: int) -> int:
    """Returns the bytes of a core's memory for so many weights and the sums of their gradients."""
    return count * (jnp.dtype(jnp.bfloat16).itemsize + jnp.dtype(jnp.float32).itemsize)


def pad_rows(arrays: Sequence[Array], step: int, cores: Cores) -> list[Array]:
    """Appends zeros to arrays [R, ...], so that `run_branch` can take `step` rows at a time.

    Tokens of zeros whose gradients are zero add nothing to those of the parameters.
    """
    missing = -len(arrays[0]) % (cores.count * step)
    return [jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1))) for array in arrays]


def run_branch(
    kernel: Callable[..., None],
    name: str,
    inputs: Sequence[Array],
    params: Any,
    outputs: Sequence[Any],
    *,
    step: int,
    cores: Cores,
    flops: int,
    transcendentals: int,
    with_gradients: bool = False,
) -> list:
    """Runs a kernel on all rows.

    Args:
      kernel: of references to rows of each input, to the parameters, and to rows of each output;
        then, with gradients, to sums for the parameters, which start with 0.
      name: of the kernel.
      inputs: [R, ...] each, the tokens first.
      params: a tree of weights [inputs, outputs], which are cast to the tokens' dtype, and of
        vectors [D], which come as [1, D].
      outputs: arrays like the outputs, [R, ...] each.
      step: rows at a time.
      cores: each of which sums gradients of its own; R is a multiple of `step` times their number.
      flops: of the kernel on all rows.
      transcendentals: likewise.
      with_gradients: whether it forms gradients of the parameters.

    Returns:
      The outputs, and the gradients, a tree like `params`.
    """
    x = inputs[0]
    steps = len(x) // (cores.count * step)
    tables = jax.tree.map(jnp.atleast_2d, params)
    sums = jax.tree.map(
        lambda t: jax.ShapeDtypeStruct((cores.count, *t.shape), jnp.float32), tables
    )
    tables = jax.tree.map(lambda t: t.astype(x.dtype) if len(t) > 1 else t, tables)

    def rows_of(array):
        block = (step, *array.shape[1:])
        return pl.BlockSpec(block, lambda core, i: (core * steps + i, *[0] * (len(block) - 1)))

    # What stays where it is for all steps needs no second buffer.
    def whole(table):
        return pl.BlockSpec(table.shape, lambda core, i: (0, 0), pipeline_mode=pl.Buffered(1))

    def of_core(total):
        block = (None, *total.shape[1:])
        return pl.BlockSpec(block, lambda core, i: (core, 0, 0), pipeline_mode=pl.Buffered(1))

    out_shape = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in outputs]
    out_specs = [rows_of(array) for array in outputs]
    if with_gradients:
        out_shape.append(sums)
        out_specs.append(jax.tree.map(of_core, sums))
    arrays = jax.tree.leaves((inputs, tables, out_shape))
    results = run_kernel(
        functools.partial(_run_after_zeroing, kernel) if with_gradients else kernel,
        f"{name}_{'x'.join(map(str, (step, *x.shape[1:])))}",
        (cores.count, steps),
        (*inputs, tables),
        memory=cores.memory,
        in_specs=(*map(rows_of, inputs), jax.tree.map(whole, tables)),
        out_shape=out_shape,
        out_specs=out_specs,
        cost_estimate=pl.CostEstimate(
            flops=flops,
            transcendentals=transcendentals,
            bytes_accessed=sum(array.size * array.dtype.itemsize for array in arrays),
        ),
    )
    if with_gradients:
        *results, sums = results
        results.append(jax.tree.map(_sum_of_cores, params, sums))
    return results


def _sum_of_cores(param, sums):
    # One by one: XLA fuses additions with what follows, but takes its time for a sum over an axis.
    total = functools.reduce(jnp.add, list(sums))
    return total.reshape(param.shape).astype(param.dtype)


def _run_after_zeroing(kernel, *references):
    @pl.when(pl.program_id(1) == 0)
    def _():
        for total in jax.tree.leaves(references[-1]):
            total[...] = jnp.zeros_like(total)

    kernel(*references)


class Normed(NamedTuple):
    """Tokens and their norm.

    Attributes:
      tokens: [T, D] float32.
      scale: [T, 1] float32, 1 / their standard deviations.
      unit: [T, D] float32, standardised.
      out: [T, D] of the tokens' dtype: unit * scale + bias, those of the parameters.
    """

    tokens: Array
    scale: Array
    unit: Array
    out: Array


def norm(x: Array, params: dict) -> Normed:
    """Forms LayerNorm in float32, within a kernel.

    Args:
      x: [T, D].
      params: references {"scale", "bias"} [1, D].
    """
    tokens = x.astype(jnp.float32)
    centred = tokens - _mean(tokens)
    scale = jax.lax.rsqrt(_mean(centred * centred) + LAYER_NORM_EPSILON)
    unit = centred * scale
    out = unit * params["scale"][...] + params["bias"][...]
    return Normed(tokens, scale, unit, out.astype(x.dtype))


def norm_gradient(gradient: Array, normed: Normed, params: dict, sums: dict) -> Array:
    """Returns the gradient by the tokens, [T, D], and adds those by the parameters to `sums`.

    Args:
      gradient: [T, D] float32, by `normed.out`.
      normed: what `norm` gave.
      params: of `norm`.
      sums: references like `params`.
    """
    sums["bias"][...] += sum_of_rows(gradient)
    sums["scale"][...] += sum_of_rows(gradient * normed.unit)
    by_unit = gradient * params["scale"][...]
    shift = _mean(by_unit) + normed.unit * _mean(by_unit * normed.unit)
    return normed.scale * (by_unit - shift)


def sum_of_rows(x: Array) -> Array:
    """Returns [1, D] of [T, D]."""
    return x.sum(axis=0, keepdims=True)


def product(x: Array, y: Array, x_axis: int = 1, y_axis: int = 0) -> Array:
    """Contracts one axis of each of two tables, summing in float32."""
    return jax.lax.dot_general(
        x, y, (((x_axis,), (y_axis,)), ((), ())), preferred_element_type=jnp.float32
    )


def _mean(x):
    return x.mean(axis=1, keepdims=True)
