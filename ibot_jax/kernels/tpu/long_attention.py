"""Self-attention of long sequences on a TPU, as of views of 512 pixels: some queries at a time.

The attention weights of such a sequence do not fit a core's vector memory; those of 256 queries of
128 columns do, beside all keys and values of these columns. So a step of the grid works through
them in one pass: no weight is written to memory, and no sum has to be corrected by a later one. The
backward pass forms the weights again, and sums the gradients of keys and values over its steps.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.linear import add_bias
from ibot_jax.kernels.specs import QKV, AttentionSpec, Spec, anything, covers
from ibot_jax.kernels.tpu.heads import LANES, head_groups, mix, mix_gradients, owner_starts
from ibot_jax.kernels.tpu.kernel import run_kernel
from ibot_jax.parallel.tensor import over_columns

Array = jax.Array

_SHORTEST = 257  # tokens: what is shorter has `attention`, a whole sequence at a time
_LONGEST = 4608  # tokens: of more, the weights of so many queries would fill the vector memory
_QUERIES = 256  # of a step
_LONG = 2048  # tokens: beyond, a step has half as many queries


_KNOWN = {
    **dict.fromkeys(("batch", "tokens", "width", "heads", "scale", "owners", "biases"), anything),
    "dtype": ("bfloat16",),
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `attention` computes this on such a device."""
    return (
        isinstance(spec, AttentionSpec)
        and (device.platform == "tpu" and not device.partitioned)
        and covers(_KNOWN, spec)
        and spec.scale == spec.head_dim**-0.5
        and _SHORTEST <= spec.tokens <= _LONGEST
        and spec.heads % device.tensor == 0
        and LANES % spec.head_dim == 0
        and spec.width // device.tensor % LANES == 0
    )


def attention(
    query: Array,
    key: Array,
    value: Array,
    biases: dict[str, Array],
    spec: AttentionSpec,
    device: Device,
) -> Array:
    """Does what `kernels.attention.attention` does; interpreted where there is no TPU."""
    del device
    arrays = [
        add_bias(x, biases[name]) if name in spec.biases else x
        for name, x in zip(QKV, (query, key, value), strict=True)
    ]
    starts = owner_starts(spec.owners)
    return over_columns(lambda *arrays: _attend(*arrays, spec.head_dim, starts))(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(query, key, value, head_dim, starts):
    return _forward(query, key, value, head_dim, starts)[0]


def _attend_forward(query, key, value, head_dim, starts):
    out, log_sums = _forward(query, key, value, head_dim, starts)
    return out, (query, key, value, log_sums)


def _attend_backward(head_dim, starts, residuals, gradient):
    return _backward(*residuals, gradient, head_dim, starts)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(query, key, value, head_dim, starts):
    """Returns [B, T, D] outputs, and the logarithms of the softmax's sums, of `_log_sums`."""
    outputs = jax.ShapeDtypeStruct(query.shape, query.dtype), _log_sums(query, head_dim)
    kernel = functools.partial(long_attention_forward, head_dim=head_dim, starts=starts)
    return _call(kernel, (query, key, value), outputs, head_dim, products=2)


def _backward(query, key, value, log_sums, gradient, head_dim, starts):
    """Returns the gradients [B, T, D] of query, key and value."""
    like = jax.ShapeDtypeStruct(query.shape, query.dtype)
    sums = pltpu.VMEM((query.shape[1], LANES), jnp.float32)
    kernel = functools.partial(long_attention_backward, head_dim=head_dim, starts=starts)
    inputs = query, key, value, log_sums, gradient
    return _call(kernel, inputs, (like,) * 3, head_dim, products=5, scratch_shapes=[sums, sums])


def _log_sums(query, head_dim):
    """Returns the shape of the logarithms: [B, D / 128, heads of 128 columns, T] float32."""
    batch, tokens, width = query.shape
    shape = batch, width // LANES, LANES // head_dim, tokens
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _call(kernel, inputs, outputs, head_dim, products, **kwargs):
    """Runs a kernel: sequence by sequence, 128 columns at a time, some queries after the other.

    What is of queries is cut, the first, the last and what has four axes; of keys and values a step
    has all. `products` tells how many a head has of [T, T] with [T, head_dim], or as large.
    """
    batch, tokens, width = inputs[0].shape
    queries = min(_QUERIES if tokens <= _LONG else _QUERIES // 2, tokens)
    whole = pl.BlockSpec((1, tokens, LANES), lambda b, group, part: (b, 0, group))
    some = pl.BlockSpec((1, queries, LANES), lambda b, group, part: (b, part, group))
    sums = pl.BlockSpec(
        (1, 1, LANES // head_dim, queries), lambda b, group, part: (b, group, 0, part)
    )
    forward = products == 2
    cost = pl.CostEstimate(
        flops=products * 2 * batch * tokens**2 * width,
        transcendentals=batch * tokens**2 * (width // head_dim),
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*inputs, *outputs)),
    )
    return run_kernel(
        kernel,
        f"{kernel.func.__name__}_{tokens}x{width}",
        (batch, width // LANES, pl.cdiv(tokens, queries)),
        inputs,
        out_shape=outputs,
        in_specs=[some, whole, whole] if forward else [some, whole, whole, sums, some],
        out_specs=[some, sums] if forward else [some, whole, whole],
        cost_estimate=cost,
        **kwargs,
    )


def long_attention_forward(query, key, value, out, log_sums, *, head_dim, starts):
    """Computes the outputs of some queries, and the logarithms of their softmax's sums."""
    (group,) = head_groups(LANES, head_dim)
    allowed = _allowed(key.shape[1], query.shape[1], starts)
    mixed, sums = mix(query[0], key[0], value[0], group, allowed)
    out[0] = mixed.astype(out.dtype)
    for head, log_sum in sums.items():
        log_sums[0, 0, head, :] = log_sum


def long_attention_backward(
    query,
    key,
    value,
    log_sums,
    gradient,
    by_query,
    by_key,
    by_value,
    key_sum,
    value_sum,
    *,
    head_dim,
    starts,
):
    """Computes the gradients of some queries, and sums those of keys and values."""
    (group,) = head_groups(LANES, head_dim)
    tokens, queries = key.shape[1], query.shape[1]
    part, parts = pl.program_id(2), pl.num_programs(2)
    # Behind the last token lies anything; such a query gets no weights, and gives no gradients.
    rows, columns = (
        part * queries + jax.lax.broadcasted_iota(jnp.int32, shape, axis) < tokens
        for axis, shape in enumerate(((queries, 1), (1, queries)))
    )
    own_query, own_gradient = (
        jnp.where(rows, x[0], jnp.zeros_like(x[0])) for x in (query, gradient)
    )
    own_sums = {
        head: jnp.where(columns, log_sums[0, 0, head, :][None], jnp.inf)[0] for head in group.heads
    }
    allowed = _allowed(tokens, queries, starts)
    totals = mix_gradients(own_query, key[0], value[0], own_sums, own_gradient, group, allowed)
    by_query[0] = totals[0].astype(by_query.dtype)

    @pl.when(part == 0)
    def _begin():
        key_sum[...] = jnp.zeros_like(key_sum)
        value_sum[...] = jnp.zeros_like(value_sum)

    key_sum[...] += totals[1]
    value_sum[...] += totals[2]

    @pl.when(part == parts - 1)
    def _end():
        by_key[0] = key_sum[...].astype(by_key.dtype)
        by_value[0] = value_sum[...].astype(by_value.dtype)


def _allowed(tokens: int, queries: int, starts: tuple[int, ...]) -> Array | None:
    """Returns which pairs are of one owner, bool [keys, queries of this step]; None if all are."""
    if not starts:
        return None
    first = pl.program_id(2) * queries
    keys = jax.lax.broadcasted_iota(jnp.int32, (tokens, 1), 0)
    asking = first + jax.lax.broadcasted_iota(jnp.int32, (1, queries), 1)
    owners = (sum((x >= s).astype(jnp.int32) for s in starts) for x in (keys, asking))
    of_keys, of_queries = owners
    return of_keys == of_queries
