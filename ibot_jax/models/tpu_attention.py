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
import numpy as np
from jax.experimental import pallas as pl

from ibot_jax.tpu_kernel import run_kernel

Array = jax.Array

_LANES = 128  # columns that a TPU works on at once
_LONGEST = 512  # tokens, and
_LARGEST = 2**18  # numbers of a sequence: beyond, one would fill the vector memory (16 MiB of v4)
_AT_ONCE = 256  # tokens: shorter sequences go through a step together, to keep its units busy


def can_attend(tokens: int, width: int, head_dim: int) -> bool:
    """Returns whether `attend` takes sequences [tokens, width] and heads of so many columns."""
    fits = tokens <= _LONGEST and tokens * width <= _LARGEST
    return fits and _LANES % head_dim == 0


def attend(
    query: Array,
    key: Array,
    value: Array,
    biases: tuple[Array, Array, Array],
    head_dim: int,
    owners: np.ndarray | None = None,
) -> Array:
    """Multi-head attention, softmax(q k' / sqrt(head_dim)) v of each head.

    On other platforms than a TPU the same kernels are interpreted, which is slow.

    Args:
      query: [B, T, D], without their bias, heads side by side.
      key: [B, T, D], likewise.
      value: [B, T, D], likewise.
      biases: [D] each, which are added to the three.
      head_dim: columns of a head; divides 128 and D.
      owners: [T], where given: a token attends to those of the same owner only, which are
        neighbours.

    Returns:
      [B, T, D] of the query's dtype.
    """
    starts = () if owners is None else tuple((np.flatnonzero(np.diff(owners)) + 1).tolist())
    return _attend(query, key, value, jnp.stack(biases), head_dim, starts)


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
        pl.cdiv(batch, rows),
        inputs,
        out_shape=outputs,
        in_specs=[block(x) for x in inputs],
        out_specs=[block(x) for x in outputs],
        cost_estimate=cost,
    )


def attention_forward(query, key, value, biases, out, log_sums, *, head_dim, starts):
    """Computes the outputs of some sequences, and the logarithms of their softmax's sums."""
    allowed = _allowed(query.shape[1], starts)
    for row, columns, heads in _groups(query.shape, head_dim):
        q, k, v = _add_biases((query, key, value), biases, row, columns)
        total = 0.0
        for head, own in heads:
            scores = _scores(q, own(k), head_dim, allowed)
            largest = scores.max(axis=0, keepdims=True)
            powers = jnp.exp(scores - largest)
            power_sum = powers.sum(axis=0, keepdims=True)
            log_sums[row, head, :] = (largest + jnp.log(power_sum))[0]
            weights = (powers / power_sum).astype(v.dtype)
            total += _product(weights, own(v), 0, 0)
        out[row, :, columns] = total.astype(out.dtype)


def attention_backward(query, key, value, biases, log_sums, gradient, *outputs, head_dim, starts):
    """Computes the gradients of query, key and value, and sums them over the tokens."""
    *gradients, sums = outputs
    allowed = _allowed(query.shape[1], starts)
    for row, columns, heads in _groups(query.shape, head_dim):
        q, k, v = _add_biases((query, key, value), biases, row, columns)
        g = gradient[row, :, columns]
        q_total = k_total = v_total = 0.0
        for head, own in heads:
            k_own, g_own = own(k), own(g)
            weights = jnp.exp(_scores(q, k_own, head_dim, allowed) - log_sums[row, head, :][None])
            by_weight = _product(v, g_own, 1, 1)
            shift = (weights * by_weight).sum(axis=0, keepdims=True)
            by_score = (weights * (by_weight - shift) * head_dim**-0.5).astype(q.dtype)
            q_total += _product(by_score, k_own, 0, 0)
            k_total += _product(by_score, own(q), 1, 0)
            v_total += _product(weights.astype(g.dtype), g_own, 1, 0)
        for i, total in enumerate((q_total, k_total, v_total)):
            gradients[i][row, :, columns] = total.astype(gradients[i].dtype)
            sums[row, i, columns] = total.sum(axis=0)


def _groups(shape, head_dim):
    """Yields row, slice of 128 columns (the last may be shorter), and the heads that lie in it.

    A head is its number, and the function that zeroes the columns of the others.
    """
    rows, _, width = shape
    for row, start in itertools.product(range(rows), range(0, width, _LANES)):
        size = min(_LANES, width - start)
        column = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
        heads = [
            (
                (start + first) // head_dim,
                functools.partial(_only, (column >= first) & (column < first + head_dim)),
            )
            for first in range(0, size, head_dim)
        ]
        yield row, slice(start, start + size), heads


def _only(columns, x):
    return jnp.where(columns, x, jnp.zeros_like(x))


def _add_biases(arrays, biases, row, columns):
    return [
        (x[row, :, columns].astype(jnp.float32) + biases[i, columns][None]).astype(x.dtype)
        for i, x in enumerate(arrays)
    ]


def _scores(q, k, head_dim, allowed):
    """Returns [keys, queries] float32."""
    scores = _product(k, q, 1, 1) * head_dim**-0.5
    return scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)


def _allowed(tokens, starts):
    """Returns whether both are of one owner, [keys, queries]; another begins at each start."""
    if not starts:
        return None
    owners = (
        sum(
            (jax.lax.broadcasted_iota(jnp.int32, shape, axis) >= s).astype(jnp.int32)
            for s in starts
        )
        for axis, shape in enumerate(((tokens, 1), (1, tokens)))
    )
    keys, queries = owners
    return keys == queries


def _product(x, y, x_axis, y_axis):
    """Contracts one axis of each, summing in float32."""
    return jax.lax.dot_general(
        x, y, (((x_axis,), (y_axis,)), ((), ())), preferred_element_type=jnp.float32
    )
