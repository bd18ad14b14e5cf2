"""Sinkhorn and Knopp's targets: over the whole batch, all prototypes are used alike.

The rows of exp(logits / temperature) are tokens, its columns prototypes. In turns, columns are
scaled to equal sums, then rows to sums of 1 (Cuturi 2013; Caron et al. 2020, section 3.1; DINOv2's
`sinkhorn_knopp_teacher`). A row's factor is the constant of its softmax, so all that has to be
found are the columns' factors: targets are softmax((logits - offset) / temperature), those of
centering with `offset` [K] in place of a center. Logits are computed anew in each turn, a chunk of
tokens at a time, and never kept.

Against overflow: in float32 exp(x / temperature) is infinite from x = 3.5 on at a temperature of
0.04, and DINOv2, whose prototypes' norms may grow, subtracts nothing. Here each column's sum is
kept as its largest exponent and a sum relative to it, over chunks and devices, so logits of any
finite size do, and no column's sum is lost for being small.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ibot_jax.losses import prototypes
from ibot_jax.losses.chunked import fold_chunks

Array = jax.Array


def sinkhorn_offsets(
    logits_of: Callable[[Array], Array],
    rows: Array,
    selected: Array,
    temperature: Array,
    *,
    chunk: int,
    turns: int,
    over: str | None = None,
    across: Sequence[str] = (),
) -> tuple[Array, Array]:
    """Returns what is subtracted from logits before their softmax.

    Args:
      logits_of: from rows [C, U] to logits [C, K], float32 (or float64).
      rows: [T, U], those of this device.
      selected: [T] bool, which of them are tokens of the batch.
      temperature: scalar.
      chunk: rows at a time, C.
      turns: how often columns and rows are scaled, at least 1; 3 in DINOv2.
      over: the axis of the prototypes, if they are spread.
      across: the axes of the tokens, if they are spread; all devices along them call this as often.

    Returns:
      [K], without gradient, 0 where no token is selected anywhere; and how unequally the tokens of
      the batch fell on the prototypes in the last turn, before it scaled the columns: half the sum
      of |share - 1 / K|, from 0 to 1.
    """
    sums = None  # of the columns, logarithms
    for _ in range(turns):
        before = sums
        sums = _column_sums(logits_of, rows, selected, temperature, before, chunk, over, across)
    before = jnp.zeros_like(sums) if before is None else before
    # What a column has once rows sum to 1 and its factor is the one before.
    shares = jnp.exp(sums - before - prototypes.logsumexp(sums - before, over))
    number = prototypes.total(jnp.ones_like(shares), over)
    unequal = prototypes.total(jnp.abs(shares - 1 / number), over) / 2
    return jax.lax.stop_gradient(temperature * sums), jax.lax.stop_gradient(unequal)


def _column_sums(logits_of, rows, selected, temperature, before, chunk, over, across):
    """Returns the logarithms of the columns' sums, [K], with rows scaled to 1 (but at first)."""
    shape = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((chunk, *rows.shape[1:]), rows.dtype))
    lowest = jnp.finfo(shape.dtype).min / 2  # finite, so that differences are no NaN

    def turn(carry, start, index, valid):
        del start
        largest, total = carry
        exponents = logits_of(rows[index]) / temperature
        if before is not None:
            exponents -= prototypes.logsumexp(exponents - before, over)[:, None]
        exponents = jnp.where(valid[:, None], exponents, lowest)
        new = jnp.maximum(largest, exponents.max(axis=0))
        return new, total * jnp.exp(largest - new) + jnp.exp(exponents - new).sum(axis=0)

    columns = shape.shape[1:]
    carry = jnp.full(columns, lowest, shape.dtype), jnp.zeros(columns, shape.dtype)
    (largest, total), _ = fold_chunks(turn, chunk, carry, selected)
    if across:
        highest = jax.lax.pmax(largest, across)
        total = jax.lax.psum(total * jnp.exp(largest - highest), across)
        largest = highest
    return jnp.where(total > 0, jnp.log(total) + largest, 0)
