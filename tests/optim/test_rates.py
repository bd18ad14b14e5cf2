"""Learning rates and decay of single parameters, as a config sets them, against DINOv2's tables."""

import json
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.runs.training import make_optimizer

SMALL = dict(model__width=384, model__depth=12, model__heads=6, model__patch_size=16)
LAST_LAYERS = ("weight_g", "weight_v", "last_layer.weight")


def our_name(name):
    """The name of a parameter of DINOv2 or DINOv3 in our tree."""
    name = re.sub(r"^blocks\.(\d+\.)?(\d+)", r"blocks_\2", name)  # in chunks, or not
    name = re.sub(r"^mlp\.(\d)", lambda match: f"mlp_{int(match[1]) // 2}", name)
    name = name.replace("cls_norm", "class_norm")
    leaf = "scale" if "norm" in name else "kernel"
    name = name.replace("weight_g", "g").replace("weight_v", "v")
    name = name.replace("last_layer.weight", "last_layer.v")
    return name.replace("weight", leaf).replace(".", "/")


def shape_of(name):
    """Vectors are what DINOv2 does not decay: biases, norms, LayerScale."""
    return (3,) if name.endswith(".bias") or "norm" in name or "gamma" in name else (2, 3)


def measured(config, names, part):
    """The factors of rate and of decay of parameters, and which stay at first, by what moves them.

    Without memory, betas of 0, Adam moves by the gradient's sign; without one decay alone moves.
    """
    plan = make_plan(config, config.batch_size)
    tx = make_optimizer(config, plan)
    step_of = jax.jit(tx.update)
    params = {"backbone": {}, "head": {"last_layer": {"v": jnp.ones((2, 3))}}}
    params[part] = flax.traverse_util.unflatten_dict(
        {tuple(our_name(name).split("/")): jnp.ones(shape_of(name)) for name in names}
    )

    def update(gradient, step):
        gradients = jax.tree.map(lambda x: jnp.full_like(x, gradient), params)
        state = tx.init(params)
        for _ in range(step + 1):
            moved, state = step_of(gradients, state, params, step=jnp.float32(3))
        tree = flax.traverse_util.flatten_dict(moved[part], sep="/")
        return {name: -float(tree[our_name(name)].ravel()[0]) for name in names}

    return update(0.0, 1), update(1.0, 1), update(1.0, 0)


@pytest.mark.parametrize(
    ("table", "part", "decay", "patches"),
    [
        ("dinov2 ViT-S with registers, decay 0.9, patch 0.2", "backbone", 0.9, 0.2),
        ("dinov2 ViT-S in 4 chunks, decay 0.9, patch 0.2", "backbone", 0.9, 0.2),
        ("dinov3 ViT-S, decay 0.98, patch 0.2", "backbone", 0.98, 0.2),
        ("dinov2 head", "head", 0.9, 0.2),
        ("dinov3 head, dino_head_wd_multiplier 0.5", "head", 0.9, 0.2),
    ],
)
def test_settings_give_the_recorded_multipliers(reference, table, part, decay, patches):
    recorded = json.loads(reference("multipliers.json").read_text())[table]
    config = tiny_config(
        **SMALL,
        duration="10 steps",
        optim__schedule="constant",
        optim__warmup="0 steps",
        optim__lr=32.0,  # x 8 / 256
        optim__weight_decay=0.5,
        optim__weight_decay_end=0.5,
        optim__clip=0.0,
        optim__betas=(0.0, 0.0),
        optim__layer_decay=decay,
        optim__rates=f"backbone/patch_embed: {patches}" if part == "backbone" else "",
        optim__freeze_last_layer="1 steps",
        head__norm_last_layer=False,
    )
    by_decay, by_both, at_first = measured(config, recorded, part)
    for name, factors in recorded.items():
        rate, is_last = factors["lr"], factors["last_layer"]
        np.testing.assert_allclose(by_decay[name], 0.5 * rate * factors["wd"], rtol=1e-6)
        np.testing.assert_allclose(by_both[name], rate * (1 + 0.5 * factors["wd"]), rtol=1e-6)
        assert (at_first[name] == 0) == is_last, name
        assert is_last == name.endswith(LAST_LAYERS)


@pytest.mark.parametrize(
    ("rates", "part", "expected"),
    [
        (
            "backbone: 10; backbone/blocks_1: 3",
            "backbone",
            {
                "pos_embed": 10 / 8,
                "patch_embed.proj.bias": 10 / 8,
                "blocks.0.attn.qkv.weight": 10 / 4,
                "blocks.1.mlp.fc1.weight": 3 / 2,
                "norm.weight": 10,
            },
        ),
        ("head: 7", "head", {"mlp.0.weight": 7, "last_layer.weight_v": 7}),
        ("*last_layer: 0", "head", {"mlp.0.weight": 1, "last_layer.weight_v": 0}),
    ],
)
def test_rates_are_factors_beside_the_layers(rates, part, expected):
    """The closed form: 0.5 ** (depth + 1 - layer), and what the last entry says."""
    config = tiny_config(
        duration="10 steps",
        optim__schedule="constant",
        optim__warmup="0 steps",
        optim__lr=32.0,
        optim__weight_decay=0.0,
        optim__weight_decay_end=0.0,
        optim__betas=(0.0, 0.0),
        optim__layer_decay=0.5,
        optim__rates=rates,
        optim__freeze_last_layer="1 steps",
    )
    _, found, _ = measured(config, expected, part)
    assert found == pytest.approx(expected, rel=1e-6)
