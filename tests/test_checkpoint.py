"""Checkpoints: exact, resumable, the latest and the best kept, usable as a start."""

import concurrent.futures
import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from disk import full_disk
from etils import epath
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax import sharding
from ibot_jax.checkpoint import Checkpoints, start_from
from ibot_jax.errors import SaveError, UserError
from ibot_jax.saved import complete_steps, find_checkpoint
from ibot_jax.step import jit_init, make_init, make_train_step, state_layout, teacher_params


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def first_state(config, seed=0):
    layout = sharding.replicated(sharding.make_mesh())
    init = make_init(config, tiny_plan(config))
    return jax.jit(init, out_shardings=layout)(jax.random.key(seed))


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def at_step(state, step):
    return state.replace(step=state.step * 0 + step)


def copied(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_a_restored_state_is_the_saved_one_though_the_next_step_took_its_buffers(workdir):
    """Saving is asynchronous, and the step that follows donates the state."""
    config = tiny_config()
    step = jax.jit(
        make_train_step(config, tiny_plan(config), sharding.make_mesh()), donate_argnums=0
    )
    batch = sharding.to_global(tiny_batch(config), sharding.make_mesh())
    key = jax.random.key(0)
    state, _ = step(first_state(config), batch, key)
    checkpoints = Checkpoints(workdir, keep=1)
    saved = copied(state)
    checkpoints.save(state)
    for _ in range(3):
        state, _ = step(state, batch, key)
    checkpoints.close()

    reopened = Checkpoints(workdir, keep=1)
    assert reopened.latest_step() == 1
    restored = reopened.restore(abstract(state))
    assert_equal(restored, saved)
    layouts = jax.tree.map(lambda x: x.sharding, restored)
    assert layouts == jax.tree.map(lambda x: x.sharding, state)


def test_a_state_is_restored_onto_another_mesh_and_to_another_dtype(workdir):
    config = tiny_config(head__prototypes=32, head__patch_prototypes=32)
    plan = tiny_plan(config)
    spread = sharding.make_mesh(fsdp=8)
    state = jit_init(config, plan, spread)(jax.random.key(0))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state)
    checkpoints.close()

    other = state_layout(config, plan, sharding.make_mesh(fsdp=2, tensor=2))
    restored = Checkpoints(workdir, keep=1).restore(other)
    assert_equal(restored, state)
    assert all(
        x.sharding.is_equivalent_to(like.sharding, x.ndim)
        for x, like in zip(jax.tree.leaves(restored), jax.tree.leaves(other), strict=True)
    )
    kernel = restored.params["head"]["last_layer"]["v"]
    assert kernel.sharding.shard_shape(kernel.shape) == (8 // 2, 32 // 2)

    def half(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        dtype = jnp.bfloat16 if is_float else x.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    halved = Checkpoints(workdir, keep=1).restore(jax.tree.map(half, other))
    assert halved.params["head"]["last_layer"]["v"].dtype == jnp.bfloat16
    assert_equal(halved, jax.tree.map(lambda x, like: x.astype(like.dtype), state, halved))


def test_the_latest_and_the_best_are_kept(workdir):
    """Of equally good ones the later; one without k-NN is never the best; also when reopened."""
    state = first_state(tiny_config())
    accuracies = {1: 40.0, 2: 90.0, 3: 90.0, 4: None, 5: 50.0, 6: None}
    checkpoints = Checkpoints(workdir, keep=2)
    for step, accuracy in accuracies.items():
        checkpoints.save(at_step(state, step), knn_top1=accuracy)
    checkpoints.close()

    def steps():
        return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())

    assert steps() == [3, 5, 6]
    reopened = Checkpoints(workdir, keep=2)
    saved = [find_checkpoint(workdir, which) for which in ("best", "5", "latest")]
    assert saved == [(3, 90.0), (5, 50.0), (6, None)]
    reopened.save(at_step(state, 7), knn_top1=60.0)
    reopened.save(at_step(state, 8), knn_top1=95.0)
    reopened.save(at_step(state, 9))
    reopened.close()
    assert steps() == [8, 9]


def test_a_state_that_is_not_finite_is_saved_to_try_again(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state.replace(finite=jax.numpy.logical_not(state.finite)))
    checkpoints.wait()
    assert bool(checkpoints.restore(abstract(state)).finite)


def test_a_step_is_saved_once(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state)
    checkpoints.save(state)
    checkpoints.close()


def test_what_a_killed_save_left_behind_is_no_checkpoint(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 4))
    checkpoints.close()
    (workdir / "checkpoints/8.orbax-checkpoint-tmp/student").mkdir(parents=True)
    reopened = Checkpoints(workdir, keep=3)
    assert reopened.latest_step() == 4
    reopened.save(at_step(state, 8))
    reopened.close()
    assert Checkpoints(workdir, keep=3).latest_step() == 8


@pytest.mark.parametrize("lost", ["_CHECKPOINT_METADATA", "teacher/_METADATA", "everything"])
def test_a_checkpoint_that_lacks_files_is_set_aside(workdir, caplog, lost):
    """As an interrupted copy leaves it; its step can then be saved again."""
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 4))
    checkpoints.save(at_step(state, 8))
    checkpoints.close()
    if lost == "everything":
        (workdir / "checkpoints/8").rmtree()
        (workdir / "checkpoints/8").mkdir()
    else:
        (workdir / "checkpoints/8" / lost).unlink()
    reopened = Checkpoints(workdir, keep=3)
    assert reopened.latest_step() == 4
    assert int(reopened.restore(abstract(state)).step) == 4
    assert "8 is no complete checkpoint; it is now 8.incomplete" in caplog.text
    reopened.save(at_step(state, 8))
    reopened.close()
    assert Checkpoints(workdir, keep=3).latest_step() == 8


def test_an_error_before_the_save_goes_to_the_background_is_reported(workdir, monkeypatch):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 1))
    checkpoints.wait()

    def save(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(SaveError, match=r"No space left on device; the latest complete .* step 1$"):
        checkpoints.save(at_step(state, 2))
    assert Checkpoints(workdir, keep=3).latest_step() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failed_save_is_found_while_the_run_goes_on(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 1))
    checkpoints.wait()
    with full_disk():
        checkpoints.save(at_step(state, 2))
        concurrent.futures.wait([checkpoints._saved])
    with pytest.raises(SaveError, match="too large"):
        checkpoints.check()
    # Not opened for saving, which tidies up, while threads of the failed save may still write.
    assert complete_steps(workdir / "checkpoints") == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_that_fails_in_the_background_is_reported(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 1))
    checkpoints.wait()
    message = r"too large.* the latest complete one is .* step 1"
    with full_disk(), pytest.raises(SaveError, match=message):
        save_and_wait(checkpoints, at_step(state, 2))


def save_and_wait(checkpoints, state):
    checkpoints.save(state)
    checkpoints.wait()


@pytest.mark.parametrize("given", ["the workdir", "one checkpoint"])
def test_a_run_starts_from_the_weights_of_another(workdir, given):
    config = tiny_config()
    other = first_state(config, seed=1)
    other = at_step(other, 4).replace(centers=jax.tree.map(lambda x: x + 3, other.centers))
    # Moves the teacher, too, so that it cannot be mistaken for a copy of the student.
    other = other.replace(opt_state=jax.tree.map(lambda x: x + 2, other.opt_state))
    expected_teacher = copied(teacher_params(other))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(other)
    checkpoints.close()

    fresh = first_state(config, seed=2)
    path = workdir if given == "the workdir" else workdir / "checkpoints/4"
    started = start_from(str(path), fresh)
    assert_equal(started.params, other.params)
    assert_equal(teacher_params(started), expected_teacher)
    assert_equal(started.centers, other.centers)
    assert int(started.step) == 0
    assert_equal(started.opt_state[0], fresh.opt_state[0])  # all links but the teacher's


def test_weights_that_do_not_fit_are_named_with_both_shapes(workdir):
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(first_state(tiny_config()))
    checkpoints.close()
    wider = first_state(tiny_config(model__width=32))
    with pytest.raises(UserError, match=r"student/backbone/\S+ has shape \(.*16.* and \(.*32"):
        start_from(str(workdir), wider)
    larger = first_state(tiny_config(data__global_size=(24, 24)))
    message = r"student/backbone/pos_embed has shape \(1, 17, 16\) there and \(1, 37, 16\) here"
    with pytest.raises(UserError, match=message):
        start_from(str(workdir), larger)
    deeper = first_state(tiny_config(model__depth=3))
    with pytest.raises(UserError, match=r"student/backbone/blocks_2/\S+ has shape none there"):
        start_from(str(workdir), deeper)


def test_no_checkpoint_to_start_from(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        start_from(str(tmp_path / "absent"), first_state(tiny_config()))
