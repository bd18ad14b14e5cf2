"""Runs with adapters: what they write, how they go on, and what others make of them."""

import json
import re
import shutil

import cli
import jax
import numpy as np
import pytest
from runs import PRETRAINING, restored, taken
from tiny import tiny_config, tiny_plan

import ibot_jax
from ibot_jax import export, main
from ibot_jax.errors import UserError
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.check import check_config
from ibot_jax.runs.training import make_train_step, state_layout, step_arguments
from ibot_jax.weights.checkpoints import complete_steps

PARTS = (*PRETRAINING, "lora")
ONE = make_mesh(jax.devices()[:1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(lora__rank=-1), "lora.rank=-1 must be 0, or from 1 to 1000000"),
        (
            dict(lora__rank=4),
            "lora.rank=4 trains adapters of a backbone; give init_from its weights",
        ),
        (dict(lora__alpha=8.0), "lora.alpha=8.0 needs a positive lora.rank"),
        (dict(lora__targets="attn/qkv"), "lora.targets='attn/qkv' needs a positive lora.rank"),
        (
            dict(lora__rank=4, init_from="there", lora__targets=" "),
            "lora.targets=' ' names no layer; use 'attn/* mlp/*'",
        ),
    ],
)
def test_keys_that_do_not_fit_together(overrides, message):
    with pytest.raises(UserError) as refused:
        check_config(tiny_config(**overrides))
    assert str(refused.value) == message


def arguments(*others):
    return ["main", *cli.TINY, "--config.checkpoint.every=1 steps", "--config.knn.every=", *others]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns the workdirs of a run, and of one with adapters that starts from it."""
    folder = tmp_path_factory.mktemp("runs")
    assert main.main(arguments(f"--workdir={folder / 'first'}")) == 0
    lora = ["--config.lora.rank=3", "--config.lora.alpha=6", f"--config.init_from={folder}/first"]
    lora += ["--config.checkpoint.keep=10", "--config.optim.freeze_last_layer=0 steps"]
    assert main.main(arguments(*lora, f"--workdir={folder / 'lora'}")) == 0
    return folder, lora


def merged(found):
    """The student's backbone as networks take it, in NumPy, of a checkpoint's part."""
    adapters, base = found["adapters"], found["base"]
    return {
        (block, part, name): kernel
        + 6 / 3 * adapters[block][part][name]["a"] @ adapters[block][part][name]["b"]
        for block, parts in base.items()
        for part, layers in parts.items()
        for name, kernel in layers.items()
    }


@pytest.mark.slow
def test_whoever_reads_a_run_sees_what_is_merged(runs, tmp_path, capsys):
    """And the base of it is to the bit what it started from."""
    folder, _ = runs
    first, found = restored(folder / "first", 10), restored(folder / "lora", 10, PARTS)
    expected = merged(found["lora"])
    assert {path[-1] for path in expected} == {"qkv", "proj", "fc1", "fc2"}
    for (block, part, name), kernel in expected.items():
        base = found["lora"]["base"][block][part][name]
        start = first["student"]["backbone"][block][part][name]["kernel"]
        np.testing.assert_array_equal(base, start)
        ours = found["student"]["backbone"][block][part][name].pop("kernel")
        assert not np.array_equal(ours, start)
        np.testing.assert_allclose(ours, kernel, rtol=1e-5, atol=1e-7)
        del first["student"]["backbone"][block][part][name]["kernel"]
    jax.tree.map(
        np.testing.assert_array_equal, found["student"]["backbone"], first["student"]["backbone"]
    )
    for who in ("student", "teacher"):
        _, params = ibot_jax.load(str(folder / "lora"), weights=who, head=True)
        jax.tree.map(np.testing.assert_array_equal, params, restored(folder / "lora", 10)[who])

    export.export(str(folder / "lora"), str(tmp_path / "out.npz"), to="npz")
    _, params = ibot_jax.load(str(tmp_path / "out.npz"))
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], found["teacher"]["backbone"])
    words = json.loads((folder / "lora/start.json").read_text())["parts"]["lora"]
    size = sum(x.size for x in jax.tree.leaves(found["lora"]["adapters"]))
    assert words.startswith(f"rank 3, alpha 6, on 4 layers (attn/* mlp/*), {size:,} parameters; ")
    assert f"| lora | {words} |" in (tmp_path / "out.npz.md").read_text()


@pytest.mark.slow
def test_a_run_goes_on_to_the_bit_and_under_its_own_rank_alone(runs, tmp_path, capsys):
    folder, lora = runs
    shutil.copytree(folder / "lora", tmp_path / "lora")
    for step in complete_steps(tmp_path / "lora" / "checkpoints"):
        if step > 4:
            shutil.rmtree(tmp_path / "lora" / "checkpoints" / str(step))
    capsys.readouterr()
    assert main.main(arguments(*lora, f"--workdir={tmp_path / 'lora'}")) == 0
    out = capsys.readouterr().out
    assert "resumed at step 4" in out
    assert re.search(r"lora +rank 3, alpha 6, on 4 layers", out)
    jax.tree.map(
        np.testing.assert_array_equal,
        restored(tmp_path / "lora", 10, PARTS),
        restored(folder / "lora", 10, PARTS),
    )
    other = [*arguments(*lora), "--config.lora.rank=2", f"--workdir={tmp_path / 'lora'}"]
    assert main.main(other) == 2
    assert "lora.rank was 3, now 2" in capsys.readouterr().err
    assert main.main([*other, "--allow_config_change"]) == 2
    assert "does not fit this config: " in capsys.readouterr().err


@pytest.mark.slow
def test_another_run_starts_from_it_with_adapters_or_without(runs):
    folder, _ = runs
    recorded = json.loads((folder / "lora/config.json").read_text())
    found = restored(folder / "lora", 10)
    for rank in (0, 2):
        config = tiny_config()
        for key, value in recorded.items():
            if key.startswith(("model.", "head.", "data.")):
                config.update_from_flattened_dict(
                    {key: tuple(value) if isinstance(value, list) else value}
                )
        config.lora.rank = rank
        weights, _ = taken(folder / "lora", config, state_layout(config, tiny_plan(config), ONE))
        for who in ("student", "teacher"):
            jax.tree.map(np.testing.assert_array_equal, weights[who], found[who])


def compiled(**overrides):
    """FLOPs of a step by the compiler's count, of two blocks on global views, and a small head."""
    config = tiny_config(model__width=64, data__local_views=0, head__hidden_dim=8, **overrides)
    plan = tiny_plan(config)
    step = jax.jit(make_train_step(config, plan, ONE))
    return step.lower(*step_arguments(config, plan, ONE)).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_a_step_costs_what_one_of_the_whole_backbone_does():
    """The gradient of a matrix is formed, and from it those of its factors."""
    whole, frozen = compiled(), compiled(optim__freeze="backbone: 100%")
    adapters = compiled(lora__rank=4)
    assert 0.95 < adapters / whole < 1.05
    assert frozen < 0.75 * whole
