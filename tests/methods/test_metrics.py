"""Metrics of a batch from their averages, and what the table says of each."""

import jax.numpy as jnp
import numpy as np

from ibot_jax.methods import metrics


def test_metrics_of_a_batch_are_formed_over_what_the_table_says():
    found = metrics.of_batch(
        {
            "class_loss": jnp.float32(1.5),
            "teacher_patch_entropy": (jnp.float32(6.0), jnp.float32(4.0)),
            "teacher_mean_entropy": jnp.array([0.5, 0.25, 0.25]),
            "masked_capacity_used": jnp.float32(0.7),
        }
    )
    expected = {
        "class_loss": 1.5,
        "teacher_patch_entropy": 1.5,
        "teacher_mean_entropy": 1.5 * np.log(2),
        "masked_capacity_used": 0.7,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_a_mean_over_no_token_is_zero_and_over_less_than_one_is_a_mean():
    """On average over the images there may be less than one token."""
    nothing = metrics.of_batch({"teacher_patch_entropy": (jnp.float32(0), jnp.float32(0))})
    assert nothing["teacher_patch_entropy"] == 0
    few = metrics.of_batch({"teacher_patch_entropy": (jnp.float32(0.25), jnp.float32(0.125))})
    assert few["teacher_patch_entropy"] == 2


def test_what_is_a_loss_and_over_what_metrics_are_formed():
    losses = {name for name, metric in metrics.METRICS.items() if metric.is_loss}
    assert losses == {"class_loss", "patch_loss", "koleo_loss", "gram_loss", "kernel_loss"}
    by_over = {}
    for name, metric in metrics.METRICS.items():
        by_over.setdefault(metric.over, set()).add(name)
        assert metric.unit in ("nats", "share", "") and len(metric.meaning) > 9
    assert by_over.pop(metrics.IMAGES) >= losses | {"student_entropy", "mask_ratio"}
    rates = {"lr", "weight_decay", "teacher_momentum", "teacher_temp", "teacher_patch_temp"}
    assert by_over == {
        metrics.TOKENS: {"teacher_patch_entropy"},
        metrics.MEAN_TARGET: {"teacher_mean_entropy"},
        metrics.DEVICES: {"masked_capacity_used"},
        metrics.STEP: {"loss", "grad_norm", "finite"} | rates,
    }
