"""DINOv2's losses over the whole batch, from all logits at once in NumPy."""

import jax
import numpy as np
import pytest
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training

KEY = jax.random.key(0)
CLASS_TEMP, PATCH_TEMP, STUDENT_TEMP = 0.05, 0.06, 0.1
TURNS, GROUP = 3, 4
DINOV2 = dict(
    method="dinov2",
    head__separate=True,
    head__shared=False,
    head__shared_teacher=False,
    head__patch_prototypes=16,
    head__patch_bottleneck_dim=6,
    data__local_views=0,
    loss__targets="sinkhorn",
    loss__koleo_weight=0.1,
    loss__koleo_group=GROUP,
    loss__max_logits=16 * 5,
    loss__teacher_temp_start=CLASS_TEMP,
    loss__teacher_patch_temp_start=PATCH_TEMP,
)


def sinkhorn(logits, temp):
    """DINOv2's `sinkhorn_knopp_teacher`, of all tokens [N, K] at once."""
    q = np.exp(np.asarray(logits, np.float64) / temp).T
    q /= q.sum()
    prototypes, tokens = q.shape
    for _ in range(TURNS):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T


def koleo(rows):
    """KoLeo of rows [N, D], and the mean nearest distance, in groups."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    groups = units.reshape(-1, GROUP, rows.shape[-1])
    distances = np.linalg.norm(groups[:, :, None] - groups[:, None], axis=-1)
    nearest = (distances + 9 * np.eye(GROUP)).min(axis=-1)
    return -np.log(nearest).mean(), nearest.mean()


def log_softmax(logits):
    logits = np.asarray(logits, np.float64) / STUDENT_TEMP
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def expected(config, params, batch):
    """All losses, from all logits of the batch at once."""
    backbone = build_backbone(config.model, config.data.global_size, config.dtype)
    head = build_head(config.head, config.dtype, teacher=True)
    views = normalized(config, batch["global_views"]).reshape(-1, 16, 16, 3)
    masks = batch["masks"].reshape(-1, 4, 4)
    teacher, student = (
        backbone.apply({"params": params["backbone"]}, views, masks) for masks in (None, masks)
    )
    class_logits, patch_logits = (
        [np.asarray(head.apply({"params": params["head"]}, x)[number]) for x in pair]
        for number, pair in enumerate(
            ((teacher.cls, student.cls), (teacher.patches, student.patches))
        )
    )
    targets = sinkhorn(class_logits[0], CLASS_TEMP).reshape(-1, 2, 12)
    predicted = log_softmax(class_logits[1]).reshape(-1, 2, 12)
    class_loss = -(targets[:, ::-1] * predicted).sum(axis=-1).mean()
    entropies = np.zeros(masks.shape)
    targets = sinkhorn(patch_logits[0][masks], PATCH_TEMP)
    entropies[masks] = -(targets * log_softmax(patch_logits[1][masks])).sum(axis=-1)
    of_views = entropies.sum(axis=(1, 2)) / np.maximum(masks.sum(axis=(1, 2)), 1)
    tokens = np.asarray(student.cls, np.float64).reshape(-1, 2, student.cls.shape[-1])
    spread, distances = np.transpose([koleo(view) for view in tokens.swapaxes(0, 1)])
    return {
        "class_loss": class_loss,
        "patch_loss": of_views.mean(),
        "koleo_loss": 0.1 * spread.sum(),
        "nearest_distance": distances.mean(),
    }


def start(**changes):
    """Returns a first state and the step, on one device; `tests/parallel` compares meshes."""
    config, mesh = tiny_config(**DINOV2 | changes), make_mesh(jax.devices()[:1])
    plan = tiny_plan(config)
    state = training.jit_init(config, plan, mesh)(KEY)
    return config, state, jax.jit(training.make_train_step(config, plan, mesh))


@pytest.fixture(scope="module")
def balanced():
    return start()


def test_sums_over_the_batch_and_chunks_make_the_losses(balanced):
    config, state, train_step = balanced
    batch = tiny_batch(config)
    losses = expected(config, state.params, batch)
    _, metrics = train_step(state, batch, KEY)
    found = {name: float(metrics[name]) for name in losses}
    assert found == pytest.approx(losses, rel=1e-4)
    assert 0 <= metrics["sinkhorn_class_error"] < 0.5 > metrics["sinkhorn_patch_error"] >= 0


def test_a_term_that_is_no_number_is_named(balanced):
    config, state, train_step = balanced
    head = dict(state.params["head"])
    head["patch_mlp_1"] = jax.tree.map(lambda x: x * np.nan, head["patch_mlp_1"])
    spoiled = state.replace(params={**state.params, "head": head})
    _, metrics = train_step(spoiled, tiny_batch(config), KEY)
    assert not metrics["finite"]
    losses = ("class_loss", "patch_loss", "koleo_loss")
    assert [bool(np.isfinite(metrics[name])) for name in losses] == [True, False, True]


def test_a_batch_without_masks_has_no_patch_loss_and_keeps_the_center():
    config, state, train_step = start(loss__targets="centering")
    batch = tiny_batch(config)
    state, _ = train_step(state, batch, KEY)
    center = np.asarray(state.buffers["centers"]["patch"])
    assert np.abs(center).max() > 0
    without = batch | {"masks": np.zeros_like(batch["masks"])}
    state, metrics = train_step(state, without, KEY)
    assert metrics["patch_loss"] == 0 and metrics["finite"]
    np.testing.assert_allclose(state.buffers["centers"]["patch"], center, rtol=1e-6)
