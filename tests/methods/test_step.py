"""Properties of the training step; its numbers are compared with the original's by replay."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.layouts import batch_sharding, replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs import training as steps
from ibot_jax.tools.pods.tpu_program import part_of

KEY = jax.random.key(0)
ONE = make_mesh(jax.devices()[:1])


def leaves_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def start(config):
    plan = tiny_plan(config)
    return (
        jax.jit(steps.make_init(config, plan))(KEY),
        jax.jit(steps.make_train_step(config, plan, ONE)),
    )


def test_the_teacher_starts_as_the_student():
    state, _ = start(tiny_config())
    leaves_equal(teacher_params(state), state.params)


def test_a_shared_teacher_starts_from_both_layers_of_a_student_as_pytorch_loads_them():
    """There the teacher's one layer has two names, of which the later one in the file stays."""
    config = tiny_config(head__shared=False)
    state, train_step = start(config)
    student, teacher = state.params["head"], teacher_params(state)["head"]
    shared = {}  # the memory that both names stand for
    for name in ("last_layer", "patch_last_layer"):  # the order of the original's state dict
        shared.update(student[name])
    assert teacher.keys() == student.keys() - {"patch_last_layer"}
    leaves_equal(teacher["last_layer"], shared)
    assert not np.array_equal(student["last_layer"]["v"], shared["v"])

    moved, metrics = train_step(state, tiny_batch(config), KEY)
    momentum = float(metrics["teacher_momentum"])
    follows = momentum * shared["v"] + (1 - momentum) * moved.params["head"]["last_layer"]["v"]
    of_teacher = teacher_params(moved)["head"]["last_layer"]["v"]
    np.testing.assert_allclose(of_teacher, follows, atol=1e-6)


def test_the_teacher_is_the_average_of_the_new_student():
    config = tiny_config(teacher_momentum=0.9)
    state, train_step = start(config)
    for seed in range(3):
        before, momentum = teacher_params(state), None
        state, metrics = train_step(state, tiny_batch(config, seed), KEY)
        momentum = float(metrics["teacher_momentum"])
        jax.tree.map(
            lambda teacher, old, student: np.testing.assert_allclose(
                teacher, momentum * old + (1 - momentum) * student, rtol=1e-5, atol=1e-7
            ),
            teacher_params(state),
            before,
            state.params,
        )


def test_centers_follow_the_teachers_outputs_for_all_tokens():
    config = tiny_config(head__shared=False, head__shared_teacher=False, head__patch_prototypes=10)
    state, train_step = start(config)
    batch = tiny_batch(config)
    variables = {"params": state.params["backbone"]}
    views = normalized(config, batch["global_views"]).reshape(-1, 16, 16, 3)
    tokens = (
        build_backbone(config.model, config.data.global_size, config.dtype)
        .apply(variables, views)
        .sequence
    )
    head = build_head(config.head, config.dtype, teacher=True)
    class_logits, patch_logits = head.apply({"params": state.params["head"]}, tokens)
    state, _ = train_step(state, batch, KEY)
    for kind, logits in (("class", class_logits[:, :1]), ("patch", patch_logits[:, 1:])):
        expected = 0.1 * np.asarray(logits).mean(axis=(0, 1))
        np.testing.assert_allclose(state.buffers["centers"][kind], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("views", "shape"), [(0, (8, 8)), (3, (8, 12))])
def test_local_views_of_any_number_and_shape(views, shape):
    config = tiny_config(data__local_views=views, data__local_size=shape)
    state, train_step = start(config)
    _, metrics = train_step(state, tiny_batch(config), KEY)
    assert np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_non_square_global_views():
    config = tiny_config(data__global_size=(16, 24))
    state, train_step = start(config)
    assert state.params["backbone"]["pos_embed"].shape == (1, 1 + 4 * 6, 16)
    _, metrics = train_step(state, tiny_batch(config), KEY)
    assert np.isfinite(metrics["loss"])


def test_batches_may_be_normalised_already():
    config = tiny_config()
    state, train_step = start(config)
    batch = tiny_batch(config)
    floats = {
        name: normalized(config, array) if array.dtype == np.uint8 else array
        for name, array in batch.items()
    }
    _, from_bytes = train_step(state, batch, KEY)
    _, from_floats = train_step(state, floats, KEY)
    np.testing.assert_allclose(from_bytes["loss"], from_floats["loss"], rtol=1e-5)


def test_a_view_that_is_not_finite_changes_nothing():
    config = tiny_config()
    state, train_step = start(config)
    batch = tiny_batch(config)
    views = normalized(config, batch["global_views"]).at[3, 0].set(jnp.nan)
    after, metrics = train_step(state, batch | {"global_views": views}, KEY)
    assert not metrics["finite"] and not after.finite
    assert np.isnan(metrics["class_loss"])
    leaves_equal(after.replace(finite=state.finite), state)


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    config = tiny_config(model__drop_path=0.3)
    plan, batch = tiny_plan(config), tiny_batch(config)
    state, alone = start(config)
    mesh = make_mesh()
    assert mesh.size == 8
    layouts = replicated(mesh), batch_sharding(mesh)
    sharded = jax.jit(
        steps.make_train_step(config, plan, mesh), in_shardings=(layouts[0], layouts[1], layouts[0])
    )
    together, _ = sharded(state, to_global(batch, mesh), KEY)
    state, _ = alone(state, batch, KEY)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), together.params, state.params
    )


def one_step(state, batch, **overrides):
    """Returns state and metrics after a step from `state` under a tiny config with overrides."""
    config = tiny_config(model__drop_path=0.3, **overrides)
    train_step = jax.jit(steps.make_train_step(config, tiny_plan(config), ONE))
    return train_step(state, batch, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        dict(grad_accum_steps=8),
        dict(grad_accum_steps=2, model__scan_blocks=True, model__remat="blocks"),
        dict(loss__max_logits=12),  # one row of logits at a time
    ],
    ids=str,
)
def test_what_saves_memory_or_compilation_changes_no_number(overrides):
    """Masks, stochastic depth, centers and clipping included."""
    config = tiny_config()
    state, _ = start(config)
    batch = tiny_batch(config)
    expected = one_step(state, batch)
    ours = one_step(state, batch, **overrides)
    # Chunks of fewer images have more slots for each; bounded ones have fewer, and are fuller.
    chunk = ours[1].pop("masked_capacity_used"), expected[1].pop("masked_capacity_used")
    assert ("loss__max_logits" not in overrides) or chunk[0] > chunk[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), ours, expected
    )


def test_parts_of_a_batch_stay_on_their_devices():
    config = tiny_config(grad_accum_steps=2, batch_size=32)
    plan, mesh = tiny_plan(config), make_mesh()
    layout, rows = replicated(mesh), batch_sharding(mesh)
    train_step = jax.jit(
        steps.make_train_step(config, plan, mesh),
        in_shardings=(layout, rows, layout),
        out_shardings=layout,
    )
    state = jax.eval_shape(steps.make_init(config, plan), KEY)
    hlo = train_step.lower(state, tiny_batch(config), KEY).compile().as_text()
    assert "all-reduce" in hlo
    assert not any(name in hlo for name in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"method": "dinov2", "loss__targets": "sinkhorn", "loss__koleo_weight": 0.1},
    ],
)
def test_operations_are_named_after_the_parts_of_a_step(overrides):
    config = tiny_config(model__drop_path=0.1, **overrides)
    plan = tiny_plan(config)
    state = jax.eval_shape(steps.make_init(config, plan), KEY)
    lowered = jax.jit(steps.make_train_step(config, plan, ONE)).lower(
        state, tiny_batch(config), KEY
    )
    lines = lowered.as_text(dialect="hlo", debug_info=True).splitlines()
    parts = {part_of(line) for line in lines if re.search(r" (dot|convolution)\(", line)}
    assert {part.partition("/")[0] for part in parts} == {"teacher", "student"}
    assert {"student/class_loss", "student/patch_loss"} <= {
        "/".join(part.removesuffix(", backward").split("/")[:2]) for part in parts
    }
    every = {part_of(line) for line in lines}
    assert {"noise", "views", "gradients", "optimizer", "optimizer/ema"} <= every
    if overrides:
        assert "student/koleo" in every
        assert any(part.startswith("teacher/sinkhorn/Head") for part in every)


def test_the_state_can_be_donated():
    config = tiny_config()
    plan = tiny_plan(config)
    state = jax.jit(steps.make_init(config, plan))(KEY)
    train_step = jax.jit(steps.make_train_step(config, plan, ONE), donate_argnums=0)
    donated = jax.tree.leaves(state)
    train_step(state, tiny_batch(config), KEY)
    assert all(leaf.is_deleted() for leaf in donated)


def test_bfloat16_keeps_parameters_losses_and_centers_in_float32():
    exact, fast = tiny_config(), tiny_config(dtype="bfloat16")
    state, train_step = start(fast)
    next_state, metrics = train_step(state, tiny_batch(fast), KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(next_state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in next_state.buffers["centers"].values()} == {jnp.dtype("float32")}
    _, expected = start(exact)[1](state, tiny_batch(exact), KEY)
    for name in ("class_loss", "patch_loss"):
        assert metrics[name].dtype == jnp.float32
        np.testing.assert_allclose(metrics[name], expected[name], rtol=0.05)


def test_entropies_are_of_the_distributions_that_the_losses_use():
    # A center equal to the logits makes the teacher uniform: entropy ln K.
    config = tiny_config()
    state, train_step = start(config)
    flat = jax.tree.map(jnp.zeros_like, state.params["head"])
    flat = {**flat, "last_layer": state.params["head"]["last_layer"]}
    state = state.replace(params={**state.params, "head": flat})
    _, metrics = train_step(state, tiny_batch(config), KEY)
    # Zero biases and weights end in a zero bottleneck, so all logits are equal.
    np.testing.assert_allclose(metrics["student_entropy"], np.log(12), rtol=1e-5)


def test_the_monitors_compare_the_views_and_the_networks():
    """At the start both networks are equal, so whole views get the same prototype from both."""
    config = tiny_config(loss__teacher_temp_start=0.02)
    state, train_step = start(config)
    batch = tiny_batch(config)
    batch["masks"] = np.zeros_like(batch["masks"])
    head = build_head(config.head, config.dtype, teacher=True)
    views = normalized(config, batch["global_views"]).reshape(-1, 16, 16, 3)
    tokens = build_backbone(config.model, config.data.global_size, config.dtype).apply(
        {"params": state.params["backbone"]}, views
    )
    logits, _ = head.apply({"params": state.params["head"]}, tokens.cls)
    first, second = scipy.special.softmax(logits / 0.02, axis=-1).reshape(8, 2, 12).swapaxes(0, 1)
    divergences = [
        scipy.stats.entropy(*pair, axis=-1) for pair in ((first, second), (second, first))
    ]
    _, metrics = train_step(state, batch, KEY)
    np.testing.assert_allclose(metrics["teacher_views_kl"], np.mean(divergences), rtol=1e-3)
    assert metrics["teacher_student_agreement"] == 1

    batch["global_views"][:, 1] = batch["global_views"][:, 0]
    batch["masks"][:4] = True
    _, metrics = train_step(state, batch, KEY)
    np.testing.assert_allclose(metrics["teacher_views_kl"], 0, atol=1e-5)
    # Wholly masked views look all alike to the student.
    chosen = first[:4].argmax(axis=-1)
    likely = [(4 + np.mean(chosen == prototype) * 4) / 8 for prototype in range(12)]
    assert any(np.isclose(metrics["teacher_student_agreement"], likely))


def test_the_step_needs_neither_tensorflow_nor_files():
    code = (
        "import sys, ibot_jax, ibot_jax.methods.step, ibot_jax.tools.replay;"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'tensorboard', 'orbax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
