"""Sinkhorn and Knopp's targets: over the whole batch, all prototypes are used alike.

The rows of exp(logits / temperature) are tokens, its columns prototypes. In turns, columns are
scaled to equal sums, then rows to sums of 1 (Cuturi 2013; Caron et al. 2020, section 3.1; DINOv2's
`sinkhorn_knopp_teacher`). A row's factor is the constant of its softmax, so all that has to be
found are the columns' factors: targets are softmax((logits - offset) / temperature), those of
centering with `offset` [K] in place of a center. Logits are computed anew in each turn, a chunk of
tokens at a time, and never kept.

Against overflow: in float32 exp(x / temperature) is infinite from x = 3.5 on at a temperature of
0.04, and DINOv2, whose prototypes' norms may grow, subtracts nothing. Here each column's sum is
kept as its largest exponent and a sum relative to it, over chunks and devices, and in later turns
relative to the turn before, so logits of any finite size do, and no column's sum is lost for being
small.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ibot_jax.losses import prototypes
from ibot_jax.losses.chunked import fold_chunks

Array = jax.Array


def sinkhorn_offsets(
    logits_of: Callable[[Array], Array],
    rows: Array,
    selected: Array | None,
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
      selected: [T] bool, which of them are tokens of the batch; None for all.
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
    fold = functools.partial(_fold, logits_of, rows, selected, temperature, chunk)
    sums = shares = _first_sums(fold, across)
    for _ in range(turns - 1):
        shares = _shares(fold, sums, over, across)
        sums += shares
    shares = prototypes.softmax(shares, over)
    number = prototypes.total(jnp.ones_like(shares), over)
    unequal = prototypes.total(jnp.abs(shares - 1 / number), over) / 2
    return jax.lax.stop_gradient(temperature * sums), jax.lax.stop_gradient(unequal)


def _fold(logits_of, rows, selected, temperature, chunk, turn, starts):
    """Adds up by prototype, chunk by chunk.

    Args:
      logits_of: as in `sinkhorn_offsets`, as the next four.
      rows: likewise.
      selected: likewise.
      temperature: likewise.
      chunk: likewise.
      turn: of (arrays [K], exponents [C, K], valid [C] bool) to the next arrays.
      starts: numbers from which the arrays start.
    """
    shape = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((chunk, *rows.shape[1:]), rows.dtype))

    def of_chunk(carry, start, index, valid):
        del start
        return turn(carry, logits_of(rows[index]) / temperature, valid)

    carry = tuple(jnp.full(shape.shape[1:], start, shape.dtype) for start in starts)
    return fold_chunks(of_chunk, chunk, carry, len(rows), selected)[0]


def _first_sums(fold, across):
    """Returns the logarithms of the columns' sums, [K]."""
    lowest = float(jnp.finfo(jnp.float32).min / 2)  # finite, so that differences are no NaN

    def turn(carry, exponents, valid):
        largest, total = carry
        exponents = jnp.where(valid[:, None], exponents, lowest)
        new = jnp.maximum(largest, exponents.max(axis=0))
        return new, total * jnp.exp(largest - new) + jnp.exp(exponents - new).sum(axis=0)

    largest, total = fold(turn, (lowest, 0))
    if across:
        highest = jax.lax.pmax(largest, across)
        total = jax.lax.psum(total * jnp.exp(largest - highest), across)
        largest = highest
    return jnp.where(total > 0, jnp.log(total) + largest, 0)


def _shares(fold, sums, over, across):
    """Returns logarithms of what columns have, [K], once `sums` have scaled them, and then rows.

    No exponential is larger than 1, and no sum smaller than 1 / K: scaled columns sum to 1, so that
    of a row of K numbers up to 1 to at most K, by which it is divided.
    """

    def turn(carry, exponents, valid):
        exponents -= sums
        by_row = jnp.where(valid, prototypes.logsumexp(exponents, over), jnp.inf)
        return (carry[0] + jnp.exp(exponents - by_row[:, None]).sum(axis=0),)

    (total,) = fold(turn, (0,))
    if across:
        total = jax.lax.psum(total, across)
    return jnp.where(total > 0, jnp.log(total), 0)
