"""iBOT's patch loss: the slots for masked tokens, and what they cost."""

import jax
import numpy as np
import pytest
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax.config import get_config
from ibot_jax.config.masking import masked_share
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.methods.comparison import masked_capacity
from ibot_jax.models.architectures import geometry_of
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training

KEY = jax.random.key(0)


@pytest.mark.parametrize("views", [8, 128])
def test_the_capacity_rarely_needs_a_second_chunk_and_is_not_idle(views):
    config = get_config()
    masks, grid = config.masks, geometry_of(config.model).grid(config.data.global_size)
    share = masked_share(masks)
    capacity = masked_capacity(share, views, grid[0] * grid[1], most=10**9)
    rng = np.random.default_rng(0)
    counts = np.array(
        [draw_mask(rng, "random", grid, masks.ratios, masks.variances).sum() for _ in range(20_000)]
    )
    totals = rng.choice(counts, size=(5_000, views)).sum(axis=1)
    assert np.mean(totals > capacity) < 0.04
    assert capacity < 1.25 * np.quantile(totals, 0.98)


def test_the_capacity_is_bounded_by_the_tokens_and_by_the_logits():
    share = (1, 0)
    assert masked_capacity(share, 3, 16, most=10**9) == 3 * 16
    assert masked_capacity(share, 3, 16, most=5) == 5
    assert masked_capacity(share, 3, 16, most=0) == 1


@pytest.mark.parametrize("devices", [1, 8])
def test_any_number_of_masked_tokens_is_exact(devices):
    """The ratios lead to expect few; whatever comes takes as many chunks as it needs."""
    mesh = make_mesh(jax.devices()[:devices])
    sgd = dict(optim__name="sgd", optim__clip=0.0, optim__warmup="0 epochs")
    few = tiny_config(
        **sgd, masks__ratios=(0.05,), masks__variances=(0.0,), loss__max_logits=12 * 8
    )
    many = tiny_config(**sgd, masks__ratios=(1.0,), masks__variances=(0.0,))
    plan = tiny_plan(few)
    state = training.make_init(few, plan)(KEY)
    train_steps = [jax.jit(training.make_train_step(config, plan, mesh)) for config in (few, many)]
    batch = tiny_batch(few)
    for masked in (0, 1, 16):
        batch["masks"] = np.zeros_like(batch["masks"])
        batch["masks"].reshape(8, 2, 16)[::2, :, :masked] = True
        (after, metrics), (expected, of_many) = (
            train_step(state, batch, KEY) for train_step in train_steps
        )
        fullest = (8 // devices + 1) // 2 * 2 * masked
        assert metrics.pop("masked_capacity_used") == fullest / masked_capacity(
            (0.05, 0), 16 // devices, 16, most=8
        )
        assert of_many.pop("masked_capacity_used") <= 1
        ours, theirs = (after.params, metrics), (expected.params, of_many)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 5e-6), ours, theirs)


@pytest.mark.slow
def test_prototypes_beyond_the_logits_bound_cost_no_logits():
    """65,536 prototypes: the step's temporaries stay below the logits of its masked tokens."""
    config = tiny_config(head__prototypes=65_536, head__patch_prototypes=65_536, batch_size=64)
    config.loss.max_logits = 65_536 * 32

    def temporaries():
        plan = tiny_plan(config)
        state = jax.eval_shape(training.make_init(config, plan), KEY)
        mesh = make_mesh(jax.devices()[:1])
        step = jax.jit(training.make_train_step(config, plan, mesh), donate_argnums=0)
        compiled = step.lower(state, tiny_batch(config), KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    bounded = temporaries()
    config.loss.max_logits = 2**30
    share = masked_share(config.masks)
    masked_logits = 4 * 65_536 * masked_capacity(share, 128, 16, most=10**9)
    assert temporaries() > masked_logits > 1.5 * bounded
