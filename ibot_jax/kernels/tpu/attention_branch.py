"""The attention's branch of a block on a TPU: norm, products, softmax and residual as one kernel.

As `tpu/attention.py` computes attention; queries, keys and values come straight from the normalised
tokens, 128 columns at a time, and what the heads give goes straight into the last product. The
forward pass keeps all of these.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON
from ibot_jax.kernels.specs import AttentionBranchSpec, Spec, covers
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import branch as tpu_branch
from ibot_jax.kernels.tpu import heads as tpu_heads
from ibot_jax.kernels.tpu.branch import product, sum_of_rows
from ibot_jax.kernels.tpu.cores import Cores, cores_of

Array = jax.Array

_BYTES = 72  # of a core's memory for each number of a token, with all that is made of it
_AT_ONCE = 180_000  # numbers: shorter sequences go through a step together, to keep its units busy


_KNOWN = {
    "attention": tpu_attention.is_known,
    "norm": ("layer",),
    "epsilon": (LAYER_NORM_EPSILON,),
    "gains": (False, True),
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `branch` computes this on such a device."""
    return (
        isinstance(spec, AttentionBranchSpec)
        and (device.platform == "tpu" and not device.partitioned and device.tensor == 1)
        and covers(_KNOWN, spec)
        and fits(spec.attention.tokens, spec.attention.width, cores_of(device.kind))
    )


def fits(tokens: int, width: int, cores: Cores) -> bool:
    """Returns whether a core's memory takes sequences [tokens, width] and the weights."""
    return width % 128 == 0 and tokens * width <= _most_numbers(width, cores)


def branch(
    x: Array, params: dict, gains: Array | None, spec: AttentionBranchSpec, device: Device
) -> Array:
    """Does what `kernels.branch.branch` does.

    Products are of x's dtype, all else is float32. On other platforms than a TPU the same kernels
    are interpreted, which is slow.
    """
    attention, cores = spec.attention, cores_of(device.kind)
    batch, tokens, width = attention.batch, attention.tokens, attention.width
    x = x.reshape(batch, tokens, width)
    gains = jnp.ones(batch * tokens, jnp.float32) if gains is None else gains
    gains = gains.reshape(batch, tokens, 1)
    at_once = min(_AT_ONCE, _most_numbers(width, cores))
    step = min(max(at_once // (tokens * width), 1), pl.cdiv(batch, cores.count))
    rows = tpu_branch.pad_rows((x, gains), step, cores)
    starts = tpu_heads.owner_starts(attention.owners)
    out = _add(*rows, params, attention.head_dim, starts, step, cores)[:batch]
    return out.reshape(batch * tokens, width)


def _most_numbers(width: int, cores: Cores) -> int:
    """Returns how many numbers of tokens a core's memory has room for beside the weights."""
    return (cores.memory - tpu_branch.size_of_weights(4 * width**2)) // _BYTES


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _add(x, gains, params, head_dim, starts, step, cores):
    inputs, outputs = (x, gains), (x,)
    return _run(attention_branch_only, inputs, params, outputs, head_dim, starts, step, cores)[0]


def _add_forward(x, gains, params, head_dim, starts, step, cores):
    log_sums = jax.ShapeDtypeStruct((len(x), x.shape[2] // head_dim, x.shape[1]), jnp.float32)
    inputs, outputs = (x, gains), (x, x, x, x, x, log_sums)
    out, *kept = _run(
        attention_branch_forward, inputs, params, outputs, head_dim, starts, step, cores
    )
    return out, (x, gains, params, kept)


def _add_backward(head_dim, starts, step, cores, residuals, gradient):
    x, gains, params, kept = residuals
    inputs = (x, gains, *kept, gradient)
    by_x, by_params = _run(
        attention_branch_backward,
        inputs,
        params,
        (x,),
        head_dim,
        starts,
        step,
        cores,
        backward=True,
    )
    return by_x, jnp.zeros_like(gains), by_params


_add.defvjp(_add_forward, _add_backward)


def _run(kernel, inputs, params, outputs, head_dim, starts, step, cores, backward=False):
    batch, tokens, width = inputs[0].shape
    linear, among_tokens = (8, 5) if backward else (4, 2)  # products [T, D] by [D, D], [T, T]
    return tpu_branch.run_branch(
        functools.partial(kernel, head_dim=head_dim, starts=starts),
        kernel.__name__,
        inputs,
        params,
        outputs,
        step=step,
        cores=cores,
        flops=2 * batch * tokens * width * (linear * width + among_tokens * tokens),
        transcendentals=batch * tokens**2 * (width // head_dim),
        with_gradients=backward,
    )


def attention_branch_only(x, gains, params, out, *, head_dim, starts):
    """Computes the outputs of some sequences."""
    _forward(x, gains, params, out, (), head_dim, starts)


def attention_branch_forward(x, gains, params, out, *kept, head_dim, starts):
    """Computes the outputs of some sequences, and keeps what the backward pass reads.

    That is queries, keys, values, what the heads give, and the logarithms of the softmax's sums.
    """
    _forward(x, gains, params, out, kept, head_dim, starts)


def _forward(x, gains, params, out, kept, head_dim, starts):
    rows, tokens, width = x.shape
    allowed = tpu_heads.allowed_pairs(tokens, starts)
    groups = tpu_heads.head_groups(width, head_dim)
    for row in range(rows):
        normed = tpu_branch.norm(x[row], params["norm"])
        branch = params["proj"]["bias"][...]
        for group in groups:
            inputs = []
            for columns in _query_key_value(group, width):
                projected = product(normed.out, params["qkv"]["kernel"][:, columns])
                projected += params["qkv"]["bias"][:, columns]
                inputs.append(projected.astype(x.dtype))
            mixed, log_sums = tpu_heads.mix(*inputs, group, allowed)
            mixed = mixed.astype(x.dtype)
            branch += product(mixed, params["proj"]["kernel"][group.columns])
            if kept:
                *tables, sums = kept
                for table, array in zip(tables, (*inputs, mixed), strict=True):
                    table[row, :, group.columns] = array
                for head, log_sum in log_sums.items():
                    sums[row, head, :] = log_sum
        out[row] = (normed.tokens + gains[row] * branch).astype(out.dtype)


def attention_branch_backward(
    x, gains, query, key, value, mixed, log_sums, gradient, params, by_x, sums, *, head_dim, starts
):
    """Computes the gradients of some sequences, and adds theirs to those of the parameters."""
    rows, tokens, width = x.shape
    allowed = tpu_heads.allowed_pairs(tokens, starts)
    groups = tpu_heads.head_groups(width, head_dim)
    for row in range(rows):
        normed = tpu_branch.norm(x[row], params["norm"])
        by_out = gradient[row].astype(jnp.float32)
        by_branch = gains[row] * by_out
        sums["proj"]["bias"][...] += sum_of_rows(by_branch)
        by_branch = by_branch.astype(x.dtype)
        by_normed = 0.0
        for group in groups:
            own = (row, slice(None), group.columns)
            by_mixed = product(by_branch, params["proj"]["kernel"][group.columns], 1, 1)
            sums["proj"]["kernel"][group.columns] += product(mixed[own], by_branch, 0, 0)
            totals = tpu_heads.mix_gradients(
                *(array[own] for array in (query, key, value)),
                {head: log_sums[row, head, :] for head in group.heads},
                by_mixed.astype(x.dtype),
                group,
                allowed,
            )
            for columns, total in zip(_query_key_value(group, width), totals, strict=True):
                sums["qkv"]["bias"][:, columns] += sum_of_rows(total)
                total = total.astype(x.dtype)
                by_normed += product(total, params["qkv"]["kernel"][:, columns], 1, 1)
                sums["qkv"]["kernel"][:, columns] += product(normed.out, total, 0, 0)
        by_tokens = tpu_branch.norm_gradient(by_normed, normed, params["norm"], sums["norm"])
        by_x[row] = (by_out + by_tokens).astype(by_x.dtype)


def _query_key_value(group, width):
    """Returns the columns of a group's queries, keys and values among those of them all."""
    starts = (i * width + group.columns.start for i in range(3))
    return [slice(start, start + group.columns.stop - group.columns.start) for start in starts]
