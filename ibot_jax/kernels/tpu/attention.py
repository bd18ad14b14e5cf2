"""Self-attention of short sequences on a TPU: a whole sequence at a time, in its vector memory.

XLA writes the attention weights to memory between its operations, and turns queries, keys and
values around for its batched products. Here neither happens: one step of the grid holds the
queries, keys and values of one sequence, [T, D], or of a few short ones, and works through 128
columns of them at a time, as they lie. Where these are several heads, one head's product is taken
with the other heads' columns zeroed, which costs nothing: a matrix unit multiplies 128 columns at
once anyway.

Scores are kept as [keys, queries], so that their sums over keys run down the rows. The backward
pass forms them again, and sums the gradients of the biases while it has the rows at hand.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionSpec, Spec, anything, covers
from ibot_jax.kernels.tpu.heads import (
    LANES,
    allowed_pairs,
    head_groups,
    mix,
    mix_gradients,
    owner_starts,
)
from ibot_jax.kernels.tpu.kernel import run_kernel
from ibot_jax.parallel.tensor import over_columns

Array = jax.Array

_LONGEST = 512  # tokens, and
_LARGEST = 2**18  # numbers of a sequence: beyond, one would fill the vector memory (16 MiB of v4)
_AT_ONCE = 256  # tokens: shorter sequences go through a step together, to keep its units busy


_KNOWN = {
    **dict.fromkeys(("batch", "tokens", "width", "heads", "scale", "owners"), anything),
    "dtype": ("bfloat16",),
    "biases": (QKV,),
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `attention` computes this on such a device."""
    return (
        isinstance(spec, AttentionSpec)
        and (device.platform == "tpu" and not device.partitioned)
        and spec.heads % device.tensor == 0
        and is_known(spec)
    )


def is_known(spec: AttentionSpec) -> bool:
    """Returns whether the kernels here take such an attention."""
    return (
        covers(_KNOWN, spec)
        and spec.scale == spec.head_dim**-0.5
        and (spec.tokens <= _LONGEST and spec.tokens * spec.width <= _LARGEST)
        and LANES % spec.head_dim == 0
    )


def attention(
    query: Array,
    key: Array,
    value: Array,
    biases: dict[str, Array],
    spec: AttentionSpec,
    device: Device,
) -> Array:
    """Does what `kernels.attention.attention` does.

    On other platforms than a TPU the same kernels are interpreted, which is slow.
    """
    del device
    starts = owner_starts(spec.owners)

    def attend(query, key, value, *biases):
        return _attend(query, key, value, jnp.stack(biases), spec.head_dim, starts)

    return over_columns(attend)(query, key, value, *(biases[name] for name in QKV))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(query, key, value, biases, head_dim, starts):
    return _forward(query, key, value, biases, head_dim, starts)[0]


def _attend_forward(query, key, value, biases, head_dim, starts):
    out, log_sums = _forward(query, key, value, biases, head_dim, starts)
    return out, (query, key, value, biases, log_sums)


def _attend_backward(head_dim, starts, residuals, gradient):
    *inputs, log_sums = residuals
    biases = inputs[-1]
    *gradients, sums = _backward(*inputs, log_sums, gradient, head_dim, starts)
    return *gradients, sums.sum(axis=0).astype(biases.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(query, key, value, biases, head_dim, starts):
    """Returns [B, T, D] outputs, and [B, heads, T] float32 logarithms of the softmax's sums."""
    batch, tokens, width = query.shape
    heads = width // head_dim
    return _call(
        attention_forward,
        (query, key, value, biases),
        (
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, heads, tokens), jnp.float32),
        ),
        head_dim,
        starts,
        products=2,
    )


def _backward(query, key, value, biases, log_sums, gradient, head_dim, starts):
    """Returns the gradients [B, T, D] of query, key and value, and [B, 3, D] their sums."""
    batch, _, width = query.shape
    like = jax.ShapeDtypeStruct(query.shape, query.dtype)
    return _call(
        attention_backward,
        (query, key, value, biases, log_sums, gradient),
        (like, like, like, jax.ShapeDtypeStruct((batch, 3, width), jnp.float32)),
        head_dim,
        starts,
        products=5,
    )


def _call(kernel, inputs, outputs, head_dim, starts, products):
    """Runs a kernel on all sequences; a step of the grid has some, whole, of each array [B, ...].

    `products` tells how many a head has of [T, T] with [T, head_dim], or as large.
    """
    batch, tokens, width = inputs[0].shape
    rows = max(_AT_ONCE // tokens, 1)

    def block(array):
        if array.ndim == 2:  # the biases
            return pl.BlockSpec(array.shape, lambda i: (0, 0))
        return pl.BlockSpec((rows, *array.shape[1:]), lambda i: (i, 0, 0))

    cost = pl.CostEstimate(
        flops=products * 2 * batch * tokens**2 * width,
        transcendentals=batch * tokens**2 * (width // head_dim),
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*inputs, *outputs)),
    )
    return run_kernel(
        functools.partial(kernel, head_dim=head_dim, starts=starts),
        f"{kernel.__name__}_{tokens}x{width}",
        (pl.cdiv(batch, rows),),
        inputs,
        out_shape=outputs,
        in_specs=[block(x) for x in inputs],
        out_specs=[block(x) for x in outputs],
        cost_estimate=cost,
    )


def attention_forward(query, key, value, biases, out, log_sums, *, head_dim, starts):
    """Computes the outputs of some sequences, and the logarithms of their softmax's sums."""
    rows, tokens, width = query.shape
    allowed = allowed_pairs(tokens, starts)
    for row, group in itertools.product(range(rows), head_groups(width, head_dim)):
        inputs = _add_biases((query, key, value), biases, row, group.columns)
        mixed, sums = mix(*inputs, group, allowed)
        out[row, :, group.columns] = mixed.astype(out.dtype)
        for head, log_sum in sums.items():
            log_sums[row, head, :] = log_sum


def attention_backward(query, key, value, biases, log_sums, gradient, *outputs, head_dim, starts):
    """Computes the gradients of query, key and value, and sums them over the tokens."""
    rows, tokens, width = query.shape
    *gradients, sums = outputs
    allowed = allowed_pairs(tokens, starts)
    for row, group in itertools.product(range(rows), head_groups(width, head_dim)):
        inputs = _add_biases((query, key, value), biases, row, group.columns)
        by_mixed = gradient[row, :, group.columns]
        own_sums = {head: log_sums[row, head, :] for head in group.heads}
        totals = mix_gradients(*inputs, own_sums, by_mixed, group, allowed)
        for i, total in enumerate(totals):
            gradients[i][row, :, group.columns] = total.astype(gradients[i].dtype)
            sums[row, i, group.columns] = total.sum(axis=0)


def _add_biases(arrays, biases, row, columns):
    return [
        (x[row, :, columns].astype(jnp.float32) + biases[i, columns][None]).astype(x.dtype)
        for i, x in enumerate(arrays)
    ]
