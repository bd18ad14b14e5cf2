"""A run takes the kernels that compute on its devices what XLA does, and leaves out the others.

The kernels for TPUs are interpreted here, or others stand in their place.
"""

import json

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from ibot_jax.kernels import choice
from ibot_jax.kernels.attention import attention
from ibot_jax.kernels.branch import branch
from ibot_jax.kernels.choice import XLA, choose
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import colors as tpu_colors
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.parallel.watchdog import Watchdog
from ibot_jax.runs import pretrain as pretraining
from ibot_jax.runs import proof

TPU = Device("tpu", "TPU v5 lite", partitioned=False)
SPEC, WIDE = (
    AttentionBranchSpec(AttentionSpec(4, tokens, 128, 2, "bfloat16", 1 / 8, QKV), "layer", 1e-6)
    for tokens in (16, 32)
)


def xla_branch(x, params, gains, spec, device):
    return branch(x, params, spec, XLA, gains)


def xla_attention(query, key, value, biases, spec, device):
    return attention(query, key, value, biases, spec)


def xla_colors(views, colors, spec, device):
    return apply_colors(views, colors, spec.max_blur_radius)


def wrong(function):
    return lambda x, *args: function(x, *args) + jnp.ones((), x.dtype)


def raising(*args):
    raise NotImplementedError("not on this chip")


@jax.custom_vjp
def without_gradient(x):
    return x


without_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (jnp.zeros_like(gradient),))


def shapes(rows=64):
    def linear(inputs, outputs):
        kernel, bias = (
            jax.ShapeDtypeStruct(s, jnp.float32) for s in ((inputs, outputs), (outputs,))
        )
        return {"kernel": kernel, "bias": bias}

    vector = jax.ShapeDtypeStruct((128,), jnp.float32)
    params = {"norm": {"scale": vector, "bias": vector}}
    params |= {"qkv": linear(128, 384), "proj": linear(128, 128)}
    return jax.ShapeDtypeStruct((rows, 128), jnp.bfloat16), params


@pytest.fixture
def traces():
    return []


@pytest.fixture
def prove(traces):
    def make_step(kernels):
        def step(x, params):
            traces.append(kernels.names)
            spec = SPEC if len(x) == 64 else WIDE
            return branch(x, params, spec, kernels)

        return jax.jit(step)

    return lambda wanted="auto", sizes=(64,): proof.prove(
        make_step, [shapes(size) for size in sizes], choose(wanted, TPU)
    )


def test_kernels_that_agree_are_taken(prove, traces, monkeypatch):
    monkeypatch.setattr(tpu_attention_branch, "branch", xla_branch)
    proven = prove()
    assert proven.used == ("tpu.attention_branch",) and not proven.warnings()
    assert str(proven) == "tpu.attention_branch; they compute here what XLA does"
    arguments = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes())
    proven.step(*arguments)
    assert len(traces) == 1  # the check costs no second one


def test_what_takes_the_place_of_one_that_is_refused_is_checked_too(prove, monkeypatch):
    monkeypatch.setattr(tpu_attention_branch, "branch", wrong(xla_branch))
    monkeypatch.setattr(tpu_attention, "attention", raising)
    proven = prove()
    assert proven.used == () and str(proven) == "xla"
    assert proven.refused == {
        "tpu.attention_branch": "its values deviate from XLA's",
        "tpu.attention": "it does not run: not on this chip",
    }
    assert not {"tpu.attention", "tpu.attention_branch"} & set(proven.kernels.names)
    monkeypatch.setattr(tpu_attention, "attention", xla_attention)
    assert prove().used == ("tpu.attention",)


def test_views_of_every_size_are_looked_at(prove, traces, monkeypatch):
    """A kernel that is right for small views alone is not taken at all."""
    monkeypatch.setattr(tpu_attention_branch, "branch", xla_branch)
    proven = prove(sizes=(64, 128))
    assert proven.used == ("tpu.attention_branch",)
    for rows in (64, 128):
        proven.step(*jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(rows)))
    assert len(traces) == 2

    def wrong_if_wide(x, params, gains, spec, device):
        found = xla_branch(x, params, gains, spec, device)
        return found + jnp.ones((), x.dtype) * (spec == WIDE)

    monkeypatch.setattr(tpu_attention_branch, "branch", wrong_if_wide)
    monkeypatch.setattr(tpu_attention, "attention", xla_attention)
    assert prove(sizes=(64,)).used == ("tpu.attention_branch",)
    assert prove(sizes=(64, 128)).used == ("tpu.attention",)


def test_all_processes_refuse_what_one_refuses(prove, monkeypatch):
    monkeypatch.setattr(tpu_attention_branch, "branch", xla_branch)
    monkeypatch.setattr(tpu_attention, "attention", xla_attention)
    others = [b"tpu.attention_branch\tits gradients deviate from XLA's", b"", b""]
    monkeypatch.setattr(proof, "gather", lambda own: [own, others.pop(0) if others else b""])
    proven = prove()
    assert proven.used == ("tpu.attention",)
    assert proven.refused == {"tpu.attention_branch": "its gradients deviate from XLA's"}


def test_without_kernels_nothing_is_traced(prove, traces):
    assert prove("xla").used == () and not traces


def small(**overrides):
    sizes = dict(model__width=128, model__mlp_ratio=2.0, model__depth=1, dtype="bfloat16")
    keys = ("optim__warmup", "optim__freeze_last_layer", "loss__teacher_temp_warmup", "log_every")
    times = dict(duration="2 steps", knn__every="") | dict.fromkeys(keys, "1 steps")
    return tiny_config(**sizes, **times, data__workers=1, **overrides)


def test_evaluations_take_none_that_the_step_was_refused(monkeypatch):
    monkeypatch.setattr(choice, "device_at_hand", lambda: TPU)
    refused = {"tpu.attention": "its values deviate from XLA's"}
    proven = proof.Proven(None, XLA, (), refused)
    taken = []
    monkeypatch.setattr(pretraining, "Evaluation", lambda model, *_, **__: taken.append(model))
    pretraining._evaluation(small(), object(), proven, Watchdog(0))
    names = taken[0].backbone.kernels.names
    assert "tpu.mlp" in names and "tpu.attention" not in names


@pytest.mark.slow
def test_a_run_goes_on_without_kernels_that_are_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretraining, "device_of", lambda mesh: TPU)
    monkeypatch.setattr(tpu_attention_branch, "branch", wrong(xla_branch))
    monkeypatch.setattr(tpu_attention, "attention", raising)
    monkeypatch.setattr(tpu_mlp, "branch", lambda x, *args: without_gradient(xla_branch(x, *args)))
    monkeypatch.setattr(tpu_colors, "apply_colors", xla_colors)
    assert pretraining.pretrain(small(data__local_views=0), str(tmp_path)) == 0
    said = capsys.readouterr()
    assert "\n  kernels    packing, tpu.colors; they compute here what XLA does\n" in said.out
    for name, reason in {
        "tpu.attention_branch": "its values deviate from XLA's",
        "tpu.attention": "it does not run: not on this chip",
        "tpu.mlp": "its gradients deviate from XLA's",
    }.items():
        warning = f"warning: the kernel {name} is not taken, for {reason}; XLA computes its part"
        assert warning in said.err
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2 and None not in losses  # what is not finite is null
