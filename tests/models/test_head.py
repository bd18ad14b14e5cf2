"""The projection head against NumPy, and its prototypes' normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from ibot_jax.models.head import Head


def make(**overrides):
    kwargs = dict(
        hidden_dim=10, bottleneck_dim=6, prototypes=9, patch_prototypes=9, shared=True, act="gelu"
    )
    return Head(**{**kwargs, **overrides})


def by_hand(params, x, act, layer, mlp="mlp"):
    for i in range(3):
        x = x @ params[f"{mlp}_{i}"]["kernel"] + params[f"{mlp}_{i}"]["bias"]
        if i < 2:
            gelu = x * (1 + erf(x / np.sqrt(2))) / 2
            x = np.maximum(x, 0) if act == "relu" else gelu
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    v, g = params[layer]["v"], params[layer]["g"]
    return np.stack(
        [g[0, k] * x @ v[:, k] / np.linalg.norm(v[:, k]) for k in range(v.shape[1])], -1
    )


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize("shared", [True, False])
def test_logits_are_those_of_the_definition(act, shared):
    head = make(act=act, shared=shared, patch_prototypes=9 if shared else 5)
    tokens = jax.random.normal(jax.random.key(1), (4, 3, 7))
    params = jax.tree.map(
        lambda p: np.random.default_rng(p.size).normal(size=p.shape),
        head.init(jax.random.key(0), tokens)["params"],
    )
    class_logits, patch_logits = head.apply({"params": params}, tokens)
    tokens = np.asarray(tokens, np.float64)
    np.testing.assert_allclose(class_logits, by_hand(params, tokens, act, "last_layer"), atol=1e-5)
    layer = "last_layer" if shared else "patch_last_layer"
    np.testing.assert_allclose(patch_logits, by_hand(params, tokens, act, layer), atol=1e-5)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_separate_heads_share_nothing(weight_norm):
    head = make(
        shared=False,
        separate=True,
        patch_prototypes=5,
        patch_hidden_dim=4,
        patch_bottleneck_dim=3,
        weight_norm=weight_norm,
    )
    tokens = jax.random.normal(jax.random.key(1), (4, 7))
    params = head.init(jax.random.key(0), tokens)["params"]
    assert params["patch_mlp_0"]["kernel"].shape == (7, 4)
    assert params["patch_last_layer"]["v"].shape == (3, 5)
    assert ("g" in params["last_layer"]) == ("g" in params["patch_last_layer"]) == weight_norm
    params = jax.tree.map(lambda p: np.random.default_rng(p.size).normal(size=p.shape), params)
    found = head.apply({"params": params}, tokens)
    tokens = np.asarray(tokens, np.float64)
    for kind, logits in zip(("", "patch_"), found, strict=True):
        last = params[f"{kind}last_layer"]
        norms = {} if weight_norm else {"g": np.linalg.norm(last["v"], axis=0, keepdims=True)}
        whole = {**params, f"{kind}last_layer": last | norms}
        expected = by_hand(whole, tokens, "gelu", f"{kind}last_layer", f"{kind}mlp")
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_shared_head_has_one_last_layer():
    params = make().init(jax.random.key(0), jnp.zeros((1, 7)))["params"]
    assert "patch_last_layer" not in params
    assert params["last_layer"]["v"].shape == (6, 9)
    np.testing.assert_array_equal(params["last_layer"]["g"], np.ones((1, 9)))


def test_logits_are_float32_under_bfloat16():
    head = make(dtype=jnp.bfloat16)
    tokens = jax.random.normal(jax.random.key(1), (4, 7))
    variables = head.init(jax.random.key(0), tokens)
    logits, _ = head.apply(variables, tokens)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, make().apply(variables, tokens)[0], atol=0.05)


def test_a_zero_bottleneck_has_a_finite_gradient():
    head = make()
    tokens = jnp.zeros((1, 7))
    variables = head.init(jax.random.key(0), tokens)  # zero biases: the bottleneck is zero

    def total(variables):
        return head.apply(variables, tokens)[0].sum()

    gradient = jax.grad(total)(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
