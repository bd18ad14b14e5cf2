"""Sinkhorn and Knopp's targets against the definition, on all tokens at once in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.centering import teacher_probs
from ibot_jax.losses.sinkhorn import sinkhorn_offsets

T, U, K, TEMP = 23, 6, 9, 0.05
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(T, U))
PARAMS = RNG.normal(size=(U, K)) / 3
SELECTED = RNG.random(T) < 0.7


def balanced(logits, temp, turns):
    """DINOv2's `sinkhorn_knopp_teacher`, of tokens [N, K]; and the shares before the last turn."""
    q = np.exp(np.asarray(logits, np.float64) / temp).T
    q /= q.sum()
    prototypes, tokens = q.shape
    for _ in range(turns):
        shares = q.sum(axis=1) / q.sum()
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T, np.abs(shares - 1 / prototypes).sum() / 2


def offsets(params, rows, selected, temp=TEMP, **options):
    options = dict(chunk=5, turns=3) | options
    params, rows, selected = map(jnp.asarray, (params, rows, selected))
    return sinkhorn_offsets(lambda rows: rows @ params, rows, selected, temp, **options)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("turns", [1, 3, 7])
@pytest.mark.parametrize("chunk", [1, 5, 23, 40])
def test_targets_are_those_of_the_definition(chunk, turns, float64):
    found, unequal = jax.jit(functools.partial(offsets, chunk=chunk, turns=turns))(
        PARAMS, ROWS, SELECTED
    )
    expected, shares = balanced((ROWS @ PARAMS)[SELECTED], TEMP, turns)
    targets = teacher_probs((ROWS @ PARAMS)[SELECTED], found, TEMP)
    np.testing.assert_allclose(targets, expected, rtol=1e-9)
    np.testing.assert_allclose(unequal, shares, rtol=1e-9, atol=1e-12)


def test_in_the_end_all_prototypes_are_used_alike(float64):
    found, unequal = offsets(PARAMS, ROWS, SELECTED, turns=100)
    targets = teacher_probs((ROWS @ PARAMS)[SELECTED], found, TEMP)
    np.testing.assert_allclose(targets.sum(axis=0), SELECTED.sum() / K, rtol=1e-2)
    assert unequal < 1e-3 < offsets(PARAMS, ROWS, SELECTED, turns=2)[1]


@pytest.mark.parametrize("spread", ["tokens", "prototypes"])
def test_a_batch_over_devices_is_one_batch(spread, float64):
    """Devices have different numbers of tokens, one of them none; or parts of the prototypes."""
    whole, unequal = offsets(PARAMS, ROWS, SELECTED)
    if spread == "tokens":
        rows = np.zeros((4, T, U))
        selected = np.zeros((4, T), bool)
        for device, numbers in enumerate(np.split(np.arange(T), [11, 11, 15])):
            rows[device, : len(numbers)] = ROWS[numbers]
            selected[device, : len(numbers)] = SELECTED[numbers]
        found = jax.vmap(
            functools.partial(offsets, PARAMS, across=("device",)), axis_name="device"
        )(rows, selected)
        expected = np.tile(whole, (4, 1))
    else:
        parts = np.stack(np.split(PARAMS, 3, axis=1))
        found = jax.vmap(
            functools.partial(offsets, rows=ROWS, selected=SELECTED, over="device"),
            axis_name="device",
        )(parts)
        expected = np.stack(np.split(whole, 3))
    np.testing.assert_allclose(found[0], expected, rtol=1e-9)
    np.testing.assert_allclose(found[1], unequal, rtol=1e-9)


def test_logits_of_any_size_do():
    """Also those whose exponentials are infinite or 0 in float32: up to 1,000 x the temperature."""
    params = jnp.asarray(PARAMS * 20, jnp.float32)
    rows = jnp.asarray(ROWS, jnp.float32)
    assert (rows @ params / TEMP).max() > 700
    found, unequal = offsets(params, rows, jnp.asarray(SELECTED))
    targets = teacher_probs((rows @ params)[SELECTED], found, TEMP)
    logits = (ROWS @ PARAMS)[SELECTED] * 20
    exponents = logits / TEMP
    factors = 0.0
    for _ in range(3):  # in logarithms
        factors = np.logaddexp.reduce(exponents, axis=0)
        exponents -= factors
        exponents -= np.logaddexp.reduce(exponents, axis=1, keepdims=True)
    np.testing.assert_allclose(targets, np.exp(exponents), atol=2e-3)
    assert 0 <= unequal <= 1


def test_without_any_token_nothing_is_subtracted():
    found, unequal = offsets(PARAMS, ROWS, np.zeros(T, bool))
    np.testing.assert_array_equal(found, np.zeros(K))
    assert unequal == pytest.approx(0, abs=1e-6)


def test_without_a_selection_all_tokens_count():
    for found, expected in zip(
        sinkhorn_offsets(
            lambda rows: rows @ PARAMS, jnp.asarray(ROWS), None, TEMP, chunk=5, turns=3
        ),
        offsets(PARAMS, ROWS, np.ones(T, bool)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_no_gradient_flows_into_them():
    for number in (0, 1):
        gradient = jax.grad(lambda params, n=number: offsets(params, ROWS, SELECTED)[n].sum())
        np.testing.assert_array_equal(gradient(jnp.asarray(PARAMS)), np.zeros((U, K)))


def test_logits_exist_for_a_chunk_only():
    tokens, prototypes, chunk = 512, 4096, 32
    shapes = ((U, prototypes), (tokens, U)), jax.ShapeDtypeStruct((tokens,), bool)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes[0]]
    program = jax.jit(functools.partial(offsets, chunk=chunk)).lower(*arguments, shapes[1])
    compiled = program.compile()
    assert compiled.memory_analysis().temp_size_in_bytes < tokens * prototypes * 4 / 4
    arrays = re.findall(r"f32\[(\d+),(\d+)\]", compiled.as_text())
    assert (str(chunk), str(prototypes)) in arrays and (str(tokens), str(prototypes)) not in arrays
