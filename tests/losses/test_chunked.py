"""Sums over chunks against the plain sum over the selected rows and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.chunked import map_chunks, sum_of_chunks

ROWS, WIDTH = 37, 5


def chunk_loss(params, rows, fixed, constants, valid):
    outputs = jnp.tanh(rows @ params["w"] + constants["shift"]) * fixed["weight"][:, None]
    return (outputs.sum(axis=-1) * valid).sum(), {"largest": (outputs.T @ valid)}


@pytest.fixture(params=[0.0, 0.3, 1.0], ids="selected {}".format)
def problem(request):
    rng = np.random.default_rng(0)
    selected = rng.random(ROWS) < request.param
    return selected, (
        {"w": jnp.array(rng.normal(size=(WIDTH, 3)))},
        jnp.array(rng.normal(size=(ROWS, WIDTH))),
        {"weight": jnp.array(rng.normal(size=ROWS))},
        {"shift": jnp.array(rng.normal(size=3))},
    )


@pytest.mark.parametrize("chunk", [1, 4, 36, 37, 100])
def test_sums_and_gradients_are_those_of_the_selected_rows(problem, chunk):
    selected, (params, rows, fixed, constants) = problem

    def chunked(params, rows):
        loss, sums = sum_of_chunks(
            chunk_loss, chunk, params, rows, fixed, constants, jnp.array(selected)
        )
        return 2 * loss, sums

    def plain(params, rows):
        chosen = {"weight": fixed["weight"][selected]}
        ones = jnp.ones(selected.sum())
        loss, sums = chunk_loss(params, rows[selected], chosen, constants, ones)
        return 2 * loss, sums

    for wrap in (
        lambda f: f,
        lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True)),
    ):
        ours, expected = (wrap(f)(params, rows) for f in (chunked, plain))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), ours, expected)


@pytest.mark.parametrize("chunk", [1, 4, 37, 100])
def test_without_a_selection_all_rows_count(problem, chunk):
    _, (params, rows, fixed, constants) = problem

    def chunked(params, rows, selected):
        return sum_of_chunks(chunk_loss, chunk, params, rows, fixed, constants, selected)

    form = jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True)
    ours, expected = form(params, rows, None), form(params, rows, jnp.ones(ROWS, bool))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("chunk", [1, 4, 37, 100])
def test_selected_rows_are_mapped_where_they_are(problem, chunk):
    selected, (params, rows, _, _) = problem
    seen = []

    def function(rows):
        seen.append(rows.shape)
        return jnp.tanh(rows @ params["w"])

    found = jax.jit(lambda: map_chunks(function, chunk, rows, jnp.array(selected)))()
    assert set(seen) == {(chunk, WIDTH)} and found.shape == (ROWS, 3)
    np.testing.assert_allclose(found[selected], jnp.tanh(rows @ params["w"])[selected], atol=1e-6)


def test_the_memory_is_that_of_a_chunk():
    prototypes, rows = 2**14, 512

    def loss(params, tokens, chunk):
        def logsumexp(params, rows, fixed, constants, valid):
            return (jax.nn.logsumexp(rows @ params, axis=-1) * valid).sum(), {}

        return sum_of_chunks(logsumexp, chunk, params, tokens, {}, {}, jnp.ones(rows, bool))[0]

    def temporaries(chunk):
        shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, prototypes), (rows, 8)))
        compiled = jax.jit(jax.grad(loss), static_argnums=2).lower(*shapes, chunk).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = rows * prototypes * 4
    assert temporaries(rows) > logits
    assert temporaries(rows // 16) < logits / 4
