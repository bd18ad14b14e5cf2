"""The capacity for masked tokens; what the step computes, counted in its compiled program."""

import jax
import numpy as np
import pytest
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax.config import get_config
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.methods import objective
from ibot_jax.methods import step as steps
from ibot_jax.models.geometry import geometry_of
from ibot_jax.parallel.gradients import average_gradients, largest_of_devices
from ibot_jax.parallel.mesh import make_mesh

KEY = jax.random.key(0)


@pytest.mark.parametrize("views", [8, 128])
def test_the_capacity_rarely_needs_a_second_chunk_and_is_not_idle(views):
    config = get_config()
    capacity = objective.masked_capacity(config, views)
    masks, grid = config.masks, geometry_of(config.model).grid(config.data.global_size)
    rng = np.random.default_rng(0)
    counts = np.array(
        [draw_mask(rng, "random", grid, masks.ratios, masks.variances).sum() for _ in range(20_000)]
    )
    totals = rng.choice(counts, size=(5_000, views)).sum(axis=1)
    assert np.mean(totals > capacity) < 0.04
    assert capacity < 1.25 * np.quantile(totals, 0.98)


def test_the_capacity_is_bounded_by_the_tokens_and_by_the_logits():
    config = tiny_config(masks__ratios=(1.0,), masks__variances=(0.0,))
    assert objective.masked_capacity(config, 3) == 3 * 16
    config.loss.max_logits = 12 * 5
    assert objective.masked_capacity(config, 3) == 5
    config.loss.max_logits = 1
    assert objective.masked_capacity(config, 3) == 1


@pytest.mark.parametrize("devices", [1, 8])
def test_any_number_of_masked_tokens_is_exact(devices):
    """The ratios lead to expect few; whatever comes takes as many chunks as it needs."""
    mesh = make_mesh(jax.devices()[:devices])
    few = tiny_config(masks__ratios=(0.05,), masks__variances=(0.0,), loss__max_logits=12 * 8)
    many = tiny_config(masks__ratios=(1.0,), masks__variances=(0.0,))
    state = steps.make_init(few, tiny_plan(few))(KEY)
    temps = {"class": 0.04, "patch": 0.04}
    batch = tiny_batch(few)

    def gradient_fn(config):
        losses = jax.value_and_grad(objective.make_losses(config, mesh), has_aux=True)

        def of_device(params, teacher, rows):
            (_, (averages, _)), gradient = losses(params, teacher, state.centers, temps, rows, None)
            used = objective.masked_capacity_used(config, rows["masks"])
            return (averages, largest_of_devices(used)), gradient

        return jax.jit(average_gradients(of_device, mesh))

    gradient_fns = [gradient_fn(config) for config in (few, many)]
    for masked in (0, 1, 16):
        batch["masks"] = np.zeros_like(batch["masks"])
        batch["masks"].reshape(8, 2, 16)[::2, :, :masked] = True
        gradients, used = [], []
        for gradient_of in gradient_fns:
            (averages, fill), gradient = gradient_of(state.params, state.params, batch)
            used.append(fill)
            gradients.append((averages, gradient))
        fullest = (8 // devices + 1) // 2 * 2 * masked
        assert used[0] == fullest / objective.masked_capacity(few, 16 // devices)
        assert used[1] <= 1
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 5e-6), *gradients)


@pytest.mark.slow
def test_prototypes_beyond_the_logits_bound_cost_no_logits():
    """65,536 prototypes: the step's temporaries stay below the logits of its masked tokens."""
    config = tiny_config(head__prototypes=65_536, head__patch_prototypes=65_536, batch_size=64)
    config.loss.max_logits = 65_536 * 32

    def temporaries():
        plan = tiny_plan(config)
        state = jax.eval_shape(steps.make_init(config, plan), KEY)
        mesh = make_mesh(jax.devices()[:1])
        step = jax.jit(steps.make_train_step(config, plan, mesh), donate_argnums=0)
        compiled = step.lower(state, tiny_batch(config), KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    bounded = temporaries()
    config.loss.max_logits = 2**30
    masked_logits = 4 * 65_536 * objective.masked_capacity(config, 128)
    assert temporaries() > masked_logits > 1.5 * bounded
