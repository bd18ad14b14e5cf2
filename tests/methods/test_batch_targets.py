"""Targets that take the whole batch, in a file of their own; those of DINOv2 as the example."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.losses import prototypes
from ibot_jax.losses.chunked import sum_of_chunks
from ibot_jax.methods import ibot
from ibot_jax.methods.comparison import prototype_axis, rows_of
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.mesh import BATCH_AXES, make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.tensor import over_prototypes
from ibot_jax.runs import training

KEY = jax.random.key(0)
CLASS_TEMP, PATCH_TEMP, STUDENT_TEMP = 0.05, 0.06, 0.1
TURNS = 3


@dataclasses.dataclass(frozen=True)
class Balanced(ibot.IBOT):
    """iBOT whose targets use all prototypes alike (Sinkhorn and Knopp, as in DINOv2).

    Of class tokens and of masked patch tokens apart, over all devices.
    """

    def targets(self, networks, views, now):
        targets = super().targets(networks, views, now)
        balance = over_prototypes(lambda *arguments: ({}, self._offsets(*arguments)))
        _, offsets = balance(targets.shared, (targets.rows, views.masks))
        return targets.replace(shared=targets.shared.replace(offsets=offsets))

    def _offsets(self, teacher, rows):
        units, masks = rows
        selected = {
            "class": jnp.ones(units.cls.shape[:1], bool),
            "patch": units.of_patches(masks.reshape(-1, *units.grid)).reshape(-1),
        }
        tokens = {"class": units.cls, "patch": rows_of(units)}
        return {kind: self._offset(kind, teacher, tokens[kind], selected[kind]) for kind in tokens}

    def _offset(self, kind, teacher, units, selected):
        over, temp = prototype_axis(), teacher.temps[kind]

        def mass(params, units, fixed, constants, valid):
            """What these tokens give each prototype; from the second turn on, 1 a token in all."""
            teacher, offset = constants
            logits = self.comparison.teacher_logits(kind, teacher, units) / temp
            if offset is None:
                given = 1 / temp  # no logit is larger
            else:
                given = prototypes.logsumexp(logits - offset, over)[:, None]
            return jnp.zeros(()), (jnp.exp(logits - given) * valid[:, None]).sum(axis=0)

        offset = None
        for _ in range(TURNS):
            constants = teacher, offset
            _, of_device = sum_of_chunks(mass, 5, {}, units, {}, constants, selected)
            offset = jnp.log(jax.lax.psum(of_device, BATCH_AXES))
        return temp * offset


def sinkhorn(logits, temp):
    """DINOv2's `sinkhorn_knopp_teacher`, of all tokens [N, K] at once."""
    q = np.exp(np.asarray(logits, np.float64) / temp).T
    q /= q.sum()
    prototypes, tokens = q.shape
    for _ in range(TURNS):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * tokens
    return (q * tokens).T


def log_softmax(logits):
    logits = np.asarray(logits, np.float64) / STUDENT_TEMP
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def expected(config, params, batch):
    """Both losses, from all logits of the batch at once."""
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
    return class_loss, of_views.mean()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [dict(devices=1), dict(devices=8, fsdp=2, tensor=2)], ids=str)
def test_sums_over_batch_devices_and_chunks_make_the_targets(mesh, monkeypatch):
    def build(*arguments):
        return Balanced(**vars(ibot.build(*arguments)))

    monkeypatch.setitem(
        sys.modules, "ibot_jax.methods.balanced", types.SimpleNamespace(build=build)
    )
    temps = dict(teacher_temp_start=CLASS_TEMP, teacher_patch_temp_start=PATCH_TEMP)
    config = tiny_config(
        method="balanced",
        data__local_views=0,
        **{f"loss__{name}": temp for name, temp in temps.items()},
    )
    mesh = make_mesh(jax.devices()[: mesh.pop("devices")], **mesh)
    plan, batch = tiny_plan(config), tiny_batch(config)
    state = training.jit_init(config, plan, mesh)(KEY)
    losses = expected(config, jax.device_get(state.params), batch)
    train_step = training.jit_train_step(config, plan, mesh)
    _, metrics = train_step(state, to_global(batch, mesh), KEY)
    found = [float(metrics[name]) for name in ("class_loss", "patch_loss")]
    np.testing.assert_allclose(found, losses, rtol=1e-4)
