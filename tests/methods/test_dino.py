"""DINO: iBOT's class loss on whole views, by recorded networks and batches and by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training
from ibot_jax.tools.replaying import training as replaying
from ibot_jax.tools.replaying.recording import Recording
from ibot_jax.tools.replaying.settings import run_of

KEY = jax.random.key(0)
ONE = make_mesh(jax.devices()[:1])


@pytest.mark.slow
def test_a_recorded_run_without_masks_and_patch_loss_is_dino(step_small):
    """The recorded networks and views, in float64, by iBOT, whose replay is exact, and by DINO."""
    with jax.enable_x64(True):
        recording = Recording(str(step_small))
        config, plan = run_of(recording)
        config.loss.patch_weight = 0.0
        first_state = replaying._first_state(recording, config, plan)
        results = {}
        for method in ("ibot", "dino"):
            config.method = method
            state = first_state
            train_step = jax.jit(training.make_train_step(config, plan, ONE))
            if method == "dino":
                state = state.replace(
                    buffers={"centers": {"class": state.buffers["centers"]["class"]}}
                )
            losses = []
            for step in range(plan.total_steps):
                batch = replaying.batch_of(recording, step, config)
                batch["masks"] = np.zeros_like(batch["masks"])
                state, metrics = train_step(state, batch, KEY)
                losses.append(metrics["loss"])
            center = state.buffers["centers"]["class"]
            results[method] = jax.device_get((losses, state.params, teacher_params(state), center))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), *results.values()
    )


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_the_loss_and_the_center_are_those_of_the_paper():
    """Algorithm 1 of Caron et al., pair by pair, and local views by equation 3."""
    config = tiny_config(method="dino", loss__class_weight=2.0, loss__teacher_temp_start=0.05)
    state = training.make_init(config, tiny_plan(config))(KEY)
    batch = tiny_batch(config)
    center = np.linspace(-0.1, 0.1, 12, dtype=np.float32)
    state = state.replace(buffers={"centers": {"class": jnp.array(center)}})
    backbone = build_backbone(config.model, config.data.global_size, config.dtype)
    head = build_head(config.head, config.dtype, teacher=True)
    logits = []
    for kind in ("global", "local"):
        views = normalized(config, batch[f"{kind}_views"])
        tokens = backbone.apply(
            {"params": state.params["backbone"]}, views.reshape(-1, *views.shape[2:])
        )
        of_kind, _ = head.apply({"params": state.params["head"]}, tokens.cls)
        logits.append(np.asarray(of_kind, np.float64).reshape(8, -1, 12))
    teacher, student = logits[0], np.concatenate(logits, axis=1)
    terms = []
    for g in range(2):
        targets = np.exp(log_softmax((teacher[:, g] - center) / 0.05))
        for v in range(4):
            if v != g:
                terms.append(-(targets * log_softmax(student[:, v] / 0.1)).sum(axis=-1).mean())
    train_step = jax.jit(training.make_train_step(config, tiny_plan(config), ONE))
    after, metrics = train_step(state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], 2 * np.mean(terms), rtol=1e-4)
    assert not {"patch_loss", "mask_ratio", "teacher_patch_temp"} & metrics.keys()
    moved = 0.9 * center + 0.1 * teacher.mean(axis=(0, 1))
    np.testing.assert_allclose(after.buffers["centers"]["class"], moved, atol=1e-6)


@pytest.mark.parametrize("key", ["shared", "shared_teacher"])
def test_a_last_layer_for_patches_is_refused(key):
    config = tiny_config(method="dino", **{f"head__{key}": False})
    with pytest.raises(UserError, match=rf"head\.{key}=False .*; set it to true"):
        training.make_init(config, tiny_plan(config))


def test_without_its_one_loss_it_is_refused():
    """The patch loss, whose weight keeps such an iBOT learning, is not there."""
    config = tiny_config(method="dino", loss__class_weight=0.0)
    with pytest.raises(UserError, match=r"loss\.class_weight=0 .*; make it positive"):
        training.make_init(config, tiny_plan(config))
