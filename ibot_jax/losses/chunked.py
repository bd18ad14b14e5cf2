"""Losses of selected rows, a chunk at a time: as many chunks as the rows fill, none ever left out.

A loss through a large last layer is bound by the memory of its logits. Here they exist for one
chunk of rows only: each chunk's gradient is formed right after its loss, and the backward pass
merely scales the sum (a loss is linear in its cotangent). The number of chunks is counted at run
time, so a chunk may be as small as the rows usually need: more of them only take another turn.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any
# (params, rows [C, ...], fixed [C, ...], constants, valid [C] bool) -> (loss, sums), scalar and a
# tree of arrays, in which rows that are not valid count nothing.
ChunkLoss = Callable[[Tree, Array, Tree, Tree, Array], tuple[Array, Tree]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_of_chunks(
    chunk_loss: ChunkLoss,
    chunk: int,
    params: Tree,
    rows: Array,
    fixed: Tree,
    constants: Tree,
    selected: Array | None,
) -> tuple[Array, Tree]:
    """Adds up a loss over the selected rows.

    Args:
      chunk_loss: the loss of a chunk of rows.
      chunk: rows of a chunk, C.
      params: what the loss is differentiated by, besides `rows`.
      rows: [T, ...].
      fixed: a tree of arrays [T, ...] that belong to the rows; no gradient flows into them.
      constants: any tree; no gradient flows into it.
      selected: [T] bool; None for all rows.

    Returns:
      The sums of both outputs of `chunk_loss`; the second one has no gradient.
    """
    return _run(chunk_loss, chunk, params, rows, fixed, constants, selected)[0]


def _run(chunk_loss, chunk, params, rows, fixed, constants, selected, gradients=False):
    def arguments(index, valid):
        of_rows = jax.tree.map(lambda x: x[index], fixed)
        return params, rows[index], of_rows, constants, valid

    def turn(carry, start, index, valid):
        outputs, grads = carry
        if gradients:
            grad_fn = jax.value_and_grad(chunk_loss, argnums=(0, 1), has_aux=True)
            new, (of_params, of_rows) = grad_fn(*arguments(index, valid))
            grads = (
                jax.tree.map(jnp.add, grads[0], of_params),
                jax.lax.dynamic_update_slice_in_dim(grads[1], of_rows, start, axis=0),
            )
        else:
            new = chunk_loss(*arguments(index, valid))
        return jax.tree.map(jnp.add, outputs, new), grads

    def zeros(tree):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)

    index, valid = jnp.zeros(chunk, jnp.int32), jnp.zeros(chunk, bool)
    outputs = zeros(jax.eval_shape(lambda: chunk_loss(*arguments(index, valid))))
    grads = ()
    if gradients:
        slots = num_slots(len(rows), chunk)
        grads = zeros((params, jax.ShapeDtypeStruct((slots, *rows.shape[1:]), rows.dtype)))
    (outputs, grads), place = fold_chunks(turn, chunk, (outputs, grads), len(rows), selected)
    if gradients:
        # Back to where the rows came from: a gather, which accelerators do better than a scatter.
        of_rows = grads[1][place]
        grads = grads[0], of_rows
    return outputs, grads


def fold_chunks(
    turn: Callable[[Tree, Array, Array, Array], Tree],
    chunk: int,
    carry: Tree,
    total: int,
    selected: Array | None,
) -> tuple[Tree, Array]:
    """Goes through the selected rows, a chunk at a time.

    Args:
      turn: of (carry, start, index [C], valid [C] bool) to the next carry: the places of a chunk's
        rows, which of them are selected ones, and how many rows came before it.
      chunk: rows of a chunk, C.
      carry: what the first turn gets, a tree of arrays.
      total: number of rows, T.
      selected: [T] bool; None for all rows.

    Returns:
      The last carry, and which row each one was, [T] int32: the selected ones come first.
    """
    count, place = total, jnp.arange(total)
    order = place  # of all rows: a TPU's compiler fails where it finds the scatter below to be none
    if selected is not None:
        count = selected.sum()
        # Where each row goes, selected ones first; counted, since a TPU's compiler is slow to sort.
        place = jnp.where(selected, jnp.cumsum(selected), count + jnp.cumsum(~selected)) - 1
        order = jnp.zeros_like(place).at[place].set(jnp.arange(total), unique_indices=True)
    slots = jnp.pad(order, (0, num_slots(total, chunk) - total))

    def body(state):
        number, carry = state
        start = number * chunk
        index = jax.lax.dynamic_slice_in_dim(slots, start, chunk)
        valid = start + jnp.arange(chunk) < count
        return number + 1, turn(carry, start, index, valid)

    _, carry = jax.lax.while_loop(
        lambda state: state[0] * chunk < count, body, (jnp.int32(0), carry)
    )
    return carry, place


def num_slots(rows: int, chunk: int) -> int:
    """Returns the rows of as many chunks as hold all rows."""
    return rows + -rows % chunk


def map_chunks(
    function: Callable[[Array], Array], chunk: int, rows: Array, selected: Array
) -> Array:
    """Maps the selected rows, a chunk at a time.

    Args:
      function: from rows [C, ...] to [C, ...].
      chunk: rows of a chunk, C.
      rows: [T, ...].
      selected: [T] bool.

    Returns:
      [T, ...]; what it holds of rows that are not selected is any number.
    """

    def turn(mapped, start, index, valid):
        del valid
        return jax.lax.dynamic_update_slice_in_dim(mapped, function(rows[index]), start, axis=0)

    shape = jax.eval_shape(function, jax.ShapeDtypeStruct((chunk, *rows.shape[1:]), rows.dtype))
    mapped = jnp.zeros((num_slots(len(rows), chunk), *shape.shape[1:]), shape.dtype)
    mapped, place = fold_chunks(turn, chunk, mapped, len(rows), selected)
    return mapped[place]


def _forward(chunk_loss, chunk, *arguments):
    return _run(chunk_loss, chunk, *arguments, gradients=True)


def _backward(chunk_loss, chunk, grads, cotangents):
    del chunk_loss, chunk
    of_params, of_rows = jax.tree.map(lambda x: (x * cotangents[0]).astype(x.dtype), grads)
    return of_params, of_rows, None, None, None


sum_of_chunks.defvjp(_forward, _backward)
