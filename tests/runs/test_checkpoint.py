"""Checkpoints: exact, resumable, the latest and the best kept, usable as a start."""

import concurrent.futures
import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from disk import full_disk
from etils import epath
from runs import PRETRAINING, started
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax.errors import SaveError, UserError
from ibot_jax.files.checksums import find_damage
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.optim.ema_teacher import ema_teacher
from ibot_jax.optim.lora import Lora
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs import checkpoint, origin
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.runs.training import jit_init, make_init, make_train_step, state_layout
from ibot_jax.weights.checkpoints import complete_steps, find_checkpoint

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def first_state(config, seed=0):
    layout = replicated(make_mesh())
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


@pytest.mark.parametrize("others", [{}, {"queue": np.arange(5)}])
def test_a_state_is_taken_apart_into_its_parts_and_put_together(others):
    def follow(params):
        return jax.tree.map(lambda x: x + 1, params)

    tx = optax.chain(optax.trace(0.9), ema_teacher(lambda step: 0.1, follow))
    params = {"backbone": np.arange(3.0), "head": np.arange(2.0)}
    state = TrainState(
        step=np.int32(7),
        params=params,
        opt_state=tx.init(params),
        buffers={"centers": {"class": np.ones(4)}, **others},
        finite=np.True_,
    )
    whole = checkpoint.parts_of(Lora())
    parts = whole.split(state)
    assert tuple(parts) == PRETRAINING
    assert parts["student"].keys() == state.params.keys()
    assert all(tree is state.params[name] for name, tree in parts["student"].items())
    assert parts["teacher"] is teacher_params(state)
    assert parts["centers"] is state.buffers["centers"]
    held = [x.tolist() for x in jax.tree.leaves(parts["optimizer"])]
    momenta, expected = [[0.0] * 3, [0.0] * 2], [7, True, *(x.tolist() for x in others.values())]
    assert sorted(map(str, held)) == sorted(map(str, momenta + expected))  # and no teacher
    assert ("buffers" in parts["optimizer"]) == bool(others)
    joined = whole.join(parts)
    assert jax.tree.structure(joined) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, joined, state)


def test_a_restored_state_is_the_saved_one_though_the_next_step_took_its_buffers(workdir):
    """Saving is asynchronous, and the step that follows donates the state."""
    config = tiny_config()
    step = jax.jit(make_train_step(config, tiny_plan(config), make_mesh()), donate_argnums=0)
    batch = to_global(tiny_batch(config), make_mesh())
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
    spread = make_mesh(fsdp=8)
    state = jit_init(config, plan, spread)(jax.random.key(0))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state)
    checkpoints.close()

    other = state_layout(config, plan, make_mesh(fsdp=2, tensor=2))
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
    saved = [find_checkpoint(workdir, which, PRETRAINING) for which in ("best", "5", "latest")]
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
    for step in (6, 8):
        (workdir / f"checkpoints/{step}.orbax-checkpoint-tmp/student").mkdir(parents=True)
    reopened = Checkpoints(workdir, keep=3)
    assert reopened.latest_step() == 4
    reopened.save(at_step(state, 8))
    reopened.close()
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "8"}
    assert Checkpoints(workdir, keep=3).latest_step() == 8


def test_a_start_that_failed_leaves_no_folder(workdir):
    for error in (None, UserError("odd"), KeyboardInterrupt()):
        checkpoints = Checkpoints(workdir, keep=1)
        assert (workdir / "checkpoints").is_dir()
        with contextlib.suppress(UserError, KeyboardInterrupt), checkpoints.none_left_empty():
            if error:
                raise error
        assert not (workdir / "checkpoints").exists()
        checkpoints.close()

    checkpoints = Checkpoints(workdir, keep=1)
    with checkpoints.none_left_empty():
        checkpoints.save(at_step(first_state(tiny_config()), 4))
        checkpoints.close()
    assert Checkpoints(workdir, keep=1).latest_step() == 4


def test_a_start_that_a_signal_ends_at_once_leaves_no_folder(workdir):
    script = """
import os, signal, sys
from etils import epath
from ibot_jax.parallel import signals
from ibot_jax.runs.checkpoint import Checkpoints

signals.end_at_once()
with Checkpoints(epath.Path(sys.argv[1]), keep=1).none_left_empty():
    os.kill(os.getpid(), signal.SIGTERM)
"""
    command = [sys.executable, "-c", script, str(workdir)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 143
    assert workdir.exists() and not (workdir / "checkpoints").exists()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Returns the workdir of a run with the checkpoints 4, of k-NN 40 %, and 8; to be copied."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(at_step(state, 4), knn_top1=40.0)
    checkpoints.save(at_step(state, 8))
    checkpoints.close()
    return workdir


@pytest.fixture
def folder(two_steps, workdir):
    """Returns checkpoints/ of a copy of it."""
    return epath.Path(shutil.copytree(two_steps / "checkpoints", workdir / "checkpoints"))


def swap(folder, part):
    """Gives each of the two steps the other's part."""
    (folder / "4" / part).rename(folder / "aside")
    (folder / "8" / part).rename(folder / "4" / part)
    (folder / "aside").rename(folder / "8" / part)


def test_the_newest_whole_checkpoint_is_used(workdir, folder, caplog):
    """The step of a damaged one, which is kept aside, can be saved again."""
    state = first_state(tiny_config())
    (folder / "8/teacher/d").rmtree()
    reopened = Checkpoints(workdir, keep=3)
    assert reopened.latest_step() == 4
    told = r"/checkpoints/8 is damaged: teacher/d/\S+ is missing; it is now 8.damaged"
    assert re.search(told, caplog.text)
    assert_equal(reopened.restore(abstract(state)), at_step(state, 4))
    reopened.save(at_step(state, 8))
    reopened.close()
    assert Checkpoints(workdir, keep=3).latest_step() == 8
    assert (folder / "8.damaged/teacher/_METADATA").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("_CHECKPOINT_METADATA", None, "_CHECKPOINT_METADATA is missing"),
        ("_CHECKPOINT_METADATA", "[]", "_CHECKPOINT_METADATA is no JSON object"),
        ("teacher/_METADATA", None, "teacher/_METADATA is missing"),
        ("optimizer", None, "optimizer/_METADATA is missing"),
        ("checksums.json", None, "checksums.json is missing"),
        ("centers/manifest.ocdbt", "", r"centers/manifest.ocdbt has 0 bytes, not \d+"),
    ],
)
def test_whatever_is_damaged_is_set_aside(workdir, folder, caplog, name, content, told):
    (folder / "8.damaged").mkdir()
    path = folder / "8" / name
    if content is not None:
        path.write_text(content)
    elif path.is_dir():
        path.rmtree()
    else:
        path.unlink()
    assert Checkpoints(workdir, keep=3).latest_step() == 4
    assert re.search(f"checkpoints/8 is damaged: {told}; it is now 8.damaged-2", caplog.text)


def test_checkpoints_none_of_which_is_whole_are_left_as_they_are(workdir, folder):
    """A run must not begin anew beside them."""
    swap(folder, "student")
    with pytest.raises(
        UserError, match=r"no whole checkpoint \(step 8: student/.*; step 4: studen"
    ):
        Checkpoints(workdir, keep=3)
    assert complete_steps(folder) == [4, 8]
    assert find_checkpoint(workdir, "latest", ["teacher"]) == (8, None)
    with pytest.raises(UserError, match=r"no whole checkpoint for step=latest \(step 8: stude"):
        find_checkpoint(workdir, "latest", ["student"])


def test_every_file_of_every_part_is_listed(folder):
    """What a part consists of is Orbax's affair: one bit is flipped wherever there is one."""
    folder = folder / "8"
    found = 0
    for path in pathlib.Path(folder).glob("*/**/*"):
        if path.is_file() and path.name != "commit_success.txt":
            whole = path.read_bytes()
            content = bytearray(whole or b"x")
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))
            name = str(path.relative_to(folder))
            assert find_damage(folder, 8, PRETRAINING).startswith(f"{name} ")
            path.write_bytes(whole)
            found += 1
    assert found > 4 * len(PRETRAINING)
    assert find_damage(folder, 8, PRETRAINING) is None


def test_readers_take_the_newest_whole_checkpoint_and_say_so(workdir, folder, caplog):
    (folder / "8/teacher/_METADATA").write_text("{}")
    assert find_checkpoint(workdir, "latest", ["teacher"]) == (4, 40.0)
    assert re.search(r"checkpoints/8 is damaged: teacher/_METADATA .* step 4 is taken", caplog.text)
    with pytest.raises(UserError, match="step 8: teacher/_METADATA"):
        find_checkpoint(workdir, "8", ["teacher"])
    (folder / "4/metrics/metrics").write_text('{"knn_top1": 99.0}')
    with pytest.raises(UserError, match="step 4: metrics/metrics"):
        find_checkpoint(workdir, "best", ["teacher"])
    assert sorted(entry.name for entry in folder.iterdir()) == ["4", "8"]  # the run's to tidy up


def test_figures_that_come_after_the_save_make_a_step_the_best(workdir):
    state = first_state(tiny_config())
    checkpoints = Checkpoints(workdir, keep=1)
    for step, accuracy in ((1, 60.0), (2, 80.0), (3, 70.0)):
        checkpoints.save(at_step(state, step))
        checkpoints.record(step, knn_top1=accuracy)
        checkpoints.record(step, knn_top1=0.0)  # the first stays
    checkpoints.close()
    assert complete_steps(workdir / "checkpoints") == [2, 3]
    assert find_checkpoint(workdir, "best", PRETRAINING) == (2, 80.0)
    Checkpoints(workdir, keep=1).close()


@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(workdir, caplog):
    script = """
import os, signal, sys
sys.path[:0] = ["tests", "tests/runs"]
from etils import epath
from test_checkpoint import Checkpoints, at_step, first_state, tiny_config
from ibot_jax.runs import checkpoint

state = first_state(tiny_config())
checkpoints = Checkpoints(epath.Path(sys.argv[1]), keep=1)
checkpoints.save(at_step(state, 4))
checkpoints.wait()
checkpoint.write_checksums = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(at_step(state, 8))
checkpoints.wait()
"""
    command = [sys.executable, "-c", script, str(workdir)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    reopened = Checkpoints(workdir, keep=1)
    assert reopened.latest_step() == 4
    state = first_state(tiny_config())
    assert_equal(reopened.restore(abstract(state)), at_step(state, 4))
    assert "damaged" not in caplog.text
    assert [entry.name for entry in (workdir / "checkpoints").iterdir()] == ["4"]


def make_old(folder):
    """Makes a checkpoint what a version without checksums wrote."""
    (folder / "checksums.json").unlink()
    metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
    metadata["custom_metadata"] = {}
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))


def test_checkpoints_without_checksums_are_used_unverified(workdir, folder, caplog):
    state = first_state(tiny_config())
    for step in ("4", "8"):
        make_old(folder / step)
    reopened = Checkpoints(workdir, keep=3)
    assert_equal(reopened.restore(abstract(state)), at_step(state, 8))
    assert caplog.text.count("without checksums: not verified") == 1
    assert find_checkpoint(workdir, "best", ["teacher"]) == (4, 40.0)
    for path in pathlib.Path(folder / "8/teacher").glob("**/manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"checkpoints/8 cannot be read \("):
        reopened.restore(abstract(state))


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
    other = at_step(other, 4).replace(buffers=jax.tree.map(lambda x: x + 3, other.buffers))
    # Moves the teacher, too, so that it cannot be mistaken for a copy of the student.
    other = other.replace(opt_state=jax.tree.map(lambda x: x + 2, other.opt_state))
    expected_teacher = copied(teacher_params(other))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(other)
    checkpoints.close()

    fresh = first_state(config, seed=2)
    path = workdir if given == "the workdir" else workdir / "checkpoints/4"
    state, _ = started(path, config, fresh)
    assert_equal(state.params, other.params)
    assert_equal(teacher_params(state), expected_teacher)
    assert_equal(state.buffers, other.buffers)
    assert int(state.step) == 0
    assert_equal(state.opt_state[0], fresh.opt_state[0])  # all links but the teacher's


def test_a_method_starts_with_the_centers_that_it_has(workdir):
    shared = dict(head__shared=True, head__shared_teacher=True)
    other = first_state(tiny_config(**shared), seed=1)
    other = at_step(other, 4).replace(buffers=jax.tree.map(lambda x: x + 3, other.buffers))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(other)
    checkpoints.close()
    config = tiny_config(method="dino", **shared)
    fresh = first_state(config, seed=2)
    state, _ = started(workdir, config, fresh)
    assert_equal(state.buffers, {"centers": {"class": np.full(12, 3, np.float32)}})
    assert state.buffers["centers"]["class"].sharding == fresh.buffers["centers"]["class"].sharding


def test_all_processes_start_from_the_checkpoint_that_the_first_one_found(workdir, monkeypatch):
    """A run that goes on has another latest checkpoint for whoever looks later."""
    checkpoints = Checkpoints(workdir, keep=2)
    first = first_state(tiny_config(), seed=1)
    expected = copied(first.params)
    for step, state in ((4, first), (8, first_state(tiny_config(), seed=2))):
        save_and_wait(checkpoints, at_step(state, step))
    checkpoints.close()
    monkeypatch.setattr(origin, "is_first", lambda: False)
    monkeypatch.setattr(origin, "first_text", lambda own: str(workdir / "checkpoints/4"))
    state, _ = started(workdir, tiny_config(), first_state(tiny_config(), seed=3))
    assert_equal(state.params, expected)


def test_weights_that_do_not_fit_are_named_with_both_shapes(workdir):
    """Where there is no config beside them, which would tell more."""
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(first_state(tiny_config()))
    checkpoints.close()
    for change, message in (
        (dict(model__width=32), r"student/backbone/\S+ is \(.*16.* and \(.*32"),
        (
            dict(data__global_size=(24, 24)),
            r"student/backbone/pos_embed is \(1, 17, 16\) there and \(1, 37, 16\) here",
        ),
        (dict(model__depth=3), r"student/backbone/blocks_2/\S+ is absent there"),
    ):
        config = tiny_config(**change)
        with pytest.raises(UserError, match=message):
            started(workdir, config, first_state(config))


def test_no_checkpoint_to_start_from(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for path, message in ((tmp_path, "holds no checkpoint"), ("/absent", "absent' does not exist")):
        with pytest.raises(UserError, match=message):
            started(path, tiny_config(), None)
