"""Attention of the heads of one sequence, within a TPU's kernel."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ibot_jax.kernels.tpu.branch import product

Array = jax.Array

LANES = 128  # columns that a TPU works on at once


@dataclasses.dataclass(frozen=True)
class HeadGroup:
    """Heads whose columns a TPU works on at once.

    Attributes:
      columns: theirs, 128 or, of the last group, fewer.
      heads: by number, the function that zeroes the columns of the others in [T, columns].
      head_dim: columns of a head.
    """

    columns: slice
    heads: dict[int, Callable[[Array], Array]]
    head_dim: int


def head_groups(width: int, head_dim: int) -> list[HeadGroup]:
    """Returns the groups of heads of `width` columns, within a kernel."""
    groups = []
    for start in range(0, width, LANES):
        size = min(LANES, width - start)
        column = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
        heads = {
            (start + first) // head_dim: functools.partial(
                _only, (column >= first) & (column < first + head_dim)
            )
            for first in range(0, size, head_dim)
        }
        groups.append(HeadGroup(slice(start, start + size), heads, head_dim))
    return groups


def _only(columns, x):
    return jnp.where(columns, x, jnp.zeros_like(x))


def mix(
    query: Array, key: Array, value: Array, group: HeadGroup, allowed: Array | None
) -> tuple[Array, dict[int, Array]]:
    """Computes the attention of one sequence, within a kernel.

    Args:
      query: [T, columns] of the group.
      key: likewise.
      value: likewise.
      group: the heads.
      allowed: of `allowed_pairs`.

    Returns:
      [T, columns] float32, and by head [T] float32 logarithms of the softmax's sums.
    """
    mixed, log_sums = 0.0, {}
    for head, own in group.heads.items():
        scores = _scores(query, own(key), group.head_dim, allowed)
        largest = scores.max(axis=0, keepdims=True)
        powers = jnp.exp(scores - largest)
        power_sum = powers.sum(axis=0, keepdims=True)
        log_sums[head] = (largest + jnp.log(power_sum))[0]
        weights = (powers / power_sum).astype(value.dtype)
        mixed += product(weights, own(value), 0, 0)
    return mixed, log_sums


def mix_gradients(
    query: Array,
    key: Array,
    value: Array,
    log_sums: dict[int, Array],
    gradient: Array,
    group: HeadGroup,
    allowed: Array | None,
) -> tuple[Array, Array, Array]:
    """Computes the gradients by query, key and value, [T, columns] float32, of `mix`.

    `gradient` [T, columns] is the one by its output, of the dtype of the others.
    """
    by_query = by_key = by_value = 0.0
    for head, own in group.heads.items():
        own_key, own_gradient = own(key), own(gradient)
        scores = _scores(query, own_key, group.head_dim, allowed)
        weights = jnp.exp(scores - log_sums[head][None])
        by_weight = product(value, own_gradient, 1, 1)
        shift = (weights * by_weight).sum(axis=0, keepdims=True)
        by_score = (weights * (by_weight - shift) * group.head_dim**-0.5).astype(query.dtype)
        by_query += product(by_score, own_key, 0, 0)
        by_key += product(by_score, own(query), 1, 0)
        by_value += product(weights.astype(gradient.dtype), own_gradient, 1, 0)
    return by_query, by_key, by_value


def _scores(query, key, head_dim, allowed):
    """Returns [keys, queries] float32."""
    scores = product(key, query, 1, 1) * head_dim**-0.5
    return scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)


def allowed_pairs(tokens: int, starts: tuple[int, ...]) -> Array | None:
    """Returns which pairs are of one owner, bool [keys, queries], within a kernel.

    Args:
      tokens: of the sequence.
      starts: where another owner begins (`owner_starts`); without any, all pairs are allowed: None.
    """
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


def owner_starts(owners: Sequence[int]) -> tuple[int, ...]:
    """Returns the tokens, of T, whose owner is not that of the token before."""
    return tuple(i for i, (one, other) in enumerate(itertools.pairwise(owners), 1) if one != other)
