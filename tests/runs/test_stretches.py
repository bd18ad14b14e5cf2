"""Runs in which parameters are frozen for a while: two programs, one run."""

import contextlib
import shutil

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import restored
from tiny import tiny_batch, tiny_config, tiny_plan

from ibot_jax import main
from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs.stretches import in_turn
from ibot_jax.runs.training import (
    jit_init,
    jit_train_step,
    make_init,
    make_train_step,
    name_problems,
    step_arguments,
)

KEY = jax.random.key(0)
ONE = make_mesh(jax.devices()[:1])


@pytest.mark.parametrize("start", [0, 2, 3, 4, 9])
def test_each_step_is_that_of_its_stretch(start):
    compiled = []

    @contextlib.contextmanager
    def compiling():
        compiled.append(None)
        yield

    programs = {begin: lambda x, begin=begin: (begin, x) for begin in (0, 3, 5)}
    step = in_turn(programs, start, compiling)
    found = [step("x") for _ in range(10 - start)]
    assert found == [(0 if n < 3 else 3 if n < 5 else 5, "x") for n in range(start, 10)]
    assert len(compiled) == len(set(found))


def test_the_first_step_with_views_of_another_size_compiles():
    """Programs from steps 0 and 3 on, of which the second sees both sizes."""
    compiled, number = [], 0

    @contextlib.contextmanager
    def compiling():
        compiled.append(number)
        yield

    step = in_turn({0: int, 3: int}, 0, compiling, [0, 0, 0, 0, 1, 0, 1].__getitem__)
    for number in range(7):
        step(number)
    assert compiled == [0, 3, 4]


def run(config, steps, at, mesh):
    """States after steps, of the program for what is trained at each."""
    plan = tiny_plan(config, 4)
    programs = {
        start: jit_train_step(config, plan, mesh, at=start) for start in {at(n) for n in steps}
    }
    layout = replicated(mesh)
    key = jax.jit(lambda: jax.random.key(0), out_shardings=layout)()
    state, states = jit_init(config, plan, mesh)(KEY), []
    for step in steps:
        states.append(jax.tree.map(np.asarray, (state.params, teacher_params(state))))
        state, _ = programs[at(step)](state, to_global(tiny_batch(config, step), mesh), key)
    return [*states, jax.tree.map(np.asarray, (state.params, teacher_params(state)))]


@pytest.mark.slow
def test_without_gradients_a_run_is_what_it_is_with_them():
    """On a mesh of all axes and in parts of a batch, against one device that computes them all.

    What is frozen stays to the bit, and its teacher; all else moves as if only the update was left
    out.
    """
    config = tiny_config(
        optim__freeze="backbone: 2 steps; backbone/blocks_0: 100%",
        optim__freeze_last_layer="0 steps",
        optim__warmup="1 steps",
    )
    parts = config.copy_and_resolve_references()
    parts.grad_accum_steps = 2
    ours = run(parts, range(4), lambda step: 0 if step < 2 else 2, make_mesh(fsdp=2, tensor=2))
    expected = run(config, range(4), lambda step: 15, ONE)
    first = ours[0][0]["backbone"]
    for student, teacher in ours[:3]:
        jax.tree.map(np.testing.assert_array_equal, student["backbone"], first)
        jax.tree.map(np.testing.assert_array_equal, teacher["backbone"], first)
    for network in ours[-1]:
        backbone = network["backbone"]
        jax.tree.map(np.testing.assert_array_equal, backbone["blocks_0"], first["blocks_0"])
        assert not np.array_equal(backbone["norm"]["scale"], first["norm"]["scale"])
    assert not np.array_equal(*(state[0]["head"]["mlp_0"]["kernel"] for state in ours[1:3]))
    # Key biases have no gradient but rounding, which AdamW scales up.
    for state, other in zip(ours, expected, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-5), state, other
        )


def flops(freeze=""):
    """By the compiler's count, of a step of two blocks on global views, and a small head."""
    config = tiny_config(
        model__width=64,
        data__local_views=0,
        head__hidden_dim=8,
        optim__freeze="; ".join(f"{glob}: 100%" for glob in freeze.split()),
    )
    plan = tiny_plan(config)
    step = jax.jit(make_train_step(config, plan, ONE))
    return step.lower(*step_arguments(config, plan, ONE)).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_no_gradient_is_computed_for_what_is_frozen():
    """A block's products cost as much forward, by its inputs, and by its weights."""
    whole = flops()
    above = whole - flops("backbone/blocks_1 backbone/norm")
    below = whole - flops(
        "backbone/patch_embed backbone/*_token backbone/pos_embed backbone/blocks_0"
    )
    # 17 tokens of 2 views of 8 images; 24 D^2 FLOPs a token for the products by weights. Above what
    # learns, a block is spared the gradients of its weights; below, those of its inputs, too.
    block = 8 * 2 * 17 * 24 * 64**2
    assert 0.95 < above / block < 1.15
    assert 1.95 < below / block < 2.5


def test_names_that_are_none_are_found_before_anything_compiles():
    config = tiny_config(optim__freeze="backbone/block_0: 100%", optim__rates="heads: 2")
    found = name_problems(config, tiny_plan(config))
    assert found == [
        "optim.freeze='backbone/block_0: 100%' has 'backbone/block_0', which names no parameter; "
        "did you mean backbone/blocks_0?",
        "optim.rates='heads: 2' has 'heads', which names no parameter; did you mean head?",
    ]
    assert name_problems(tiny_config(), tiny_plan(config)) == []
    alone = "backbone: 100%; head/mlp*: 100%"  # of what is left, last layers are frozen at first
    config = tiny_config(optim__freeze=alone, optim__freeze_last_layer="50%")
    assert name_problems(config, tiny_plan(config)) == [
        f"optim.freeze='{alone}' leaves nothing to train at first; name fewer parameters, or "
        "shorten optim.freeze_last_layer"
    ]
    config.optim.freeze_last_layer = "0%"
    assert name_problems(config, tiny_plan(config)) == []
    config = tiny_config(optim__freeze="backbone/block_0: 100%")
    with pytest.raises(UserError, match="names no parameter"):
        jax.eval_shape(make_init(config, tiny_plan(config)), KEY)


@pytest.mark.slow
def test_a_run_goes_on_on_either_side_of_the_thaw(tmp_path, capsys):
    """Bit for bit, from a checkpoint before it, at it and after it; frozen parts stay."""
    arguments = [
        "main",
        *cli.TINY,
        "--config.optim.freeze=backbone: 4 steps",
        "--config.optim.freeze_last_layer=0 steps",
        "--config.knn.every=",
        "--config.checkpoint.every=1 steps",
        "--config.checkpoint.keep=10",
    ]
    left_alone = tmp_path / "left_alone"
    assert main.main([*arguments, f"--workdir={left_alone}"]) == 0
    assert "M parameters until step 4, then none (backbone: 4 steps)" in capsys.readouterr().out
    first, thawed = restored(left_alone, 1), restored(left_alone, 4)
    for weights in ("student", "teacher"):
        jax.tree.map(
            np.testing.assert_array_equal, thawed[weights]["backbone"], first["student"]["backbone"]
        )
    final = restored(left_alone, 10)
    moved = jax.tree.map(
        jnp.array_equal, final["student"]["backbone"], first["student"]["backbone"]
    )
    assert not any(jax.tree.leaves(moved))
    for step in (2, 4):
        workdir = tmp_path / str(step)
        shutil.copytree(left_alone, workdir)
        for later in range(step + 1, 11):
            shutil.rmtree(workdir / "checkpoints" / str(later))
        assert main.main([*arguments, f"--workdir={workdir}"]) == 0
        assert f"resumed at step {step}" in capsys.readouterr().out
        jax.tree.map(np.testing.assert_array_equal, restored(workdir, 10), final)
