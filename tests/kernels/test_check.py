"""Kernels are compared with their definitions, in values and in gradients; wrong ones are found.

Those for TPUs are interpreted here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.attention import attention
from ibot_jax.kernels.branch import branch
from ibot_jax.kernels.check import compare, within_memory
from ibot_jax.kernels.choice import XLA
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import (
    QKV,
    AttentionBranchSpec,
    AttentionSpec,
    ColorsSpec,
    MlpBranchSpec,
    PackingSpec,
)
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import colors as tpu_colors
from ibot_jax.kernels.tpu import mlp as tpu_mlp

TPU = Device("tpu", "TPU v5 lite", partitioned=False)
ATTENTION = AttentionSpec(8, 24, 128, 2, "bfloat16", 1 / 8, QKV)
MLP = MlpBranchSpec(40, 128, 256, "bfloat16", "gelu", "layer", 1e-6, gains=True)
COLORS = ColorsSpec(4, 16, 24, 3, 2.0)
RIGHT = {
    "tpu.attention": ATTENTION,
    "tpu.attention, owners": dataclasses.replace(
        ATTENTION, owners=(0,) * 10 + (1,) * 10 + (-1,) * 4
    ),
    "tpu.long_attention": dataclasses.replace(ATTENTION, batch=2, tokens=300),
    "tpu.long_attention, owners": dataclasses.replace(
        ATTENTION, batch=1, tokens=264, owners=(0,) * 257 + (-1,) * 7
    ),
    "tpu.attention_branch": AttentionBranchSpec(ATTENTION, "layer", 1e-6),
    "tpu.mlp": MLP,
    "packing": PackingSpec(dataclasses.replace(ATTENTION, batch=20)),
    "tpu.colors": COLORS,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT)
def test_the_kernels_agree_with_their_definitions(case):
    verdict = compare(case.partition(",")[0], RIGHT[case], TPU)
    assert not verdict.problem
    assert verdict.values <= verdict.allowed[0]
    if case == "tpu.colors":
        assert verdict.values == 0 and verdict.gradients is None
    else:  # as far as bfloat16 rounds, and not by chance the same computation
        assert 0 < verdict.gradients <= verdict.allowed[1] < 0.1


def xla_mlp(x, params, gains, spec, device):
    return branch(x, params, spec, XLA, gains)


@jax.custom_vjp
def doubling_gradients(x):
    return x


doubling_gradients.defvjp(lambda x: (x, None), lambda _, gradient: (2 * gradient,))


def raising(*args):
    raise NotImplementedError("Mosaic does not know this\nand more lines")


WRONG = {
    "a wrong value": (lambda x, *args: xla_mlp(x, *args) * 1.1, "values and gradients deviate"),
    "a forgotten gain": (
        lambda x, params, gains, spec, device: xla_mlp(
            x, params, jnp.ones_like(gains), spec, device
        ),
        "values and gradients deviate",
    ),
    "a wrong gradient only": (
        lambda x, *args: doubling_gradients(xla_mlp(x, *args)),
        "its gradients deviate",
    ),
    "a wrong gradient of one parameter": (
        lambda x, params, *args: xla_mlp(
            x, params | {"fc1": jax.tree.map(doubling_gradients, params["fc1"])}, *args
        ),
        "its gradients deviate",
    ),
    "no number": (lambda x, *args: xla_mlp(x, *args) * jnp.nan, "values and gradients deviate"),
    "an error": (raising, "it does not run: Mosaic does not know this"),
}


@pytest.mark.parametrize(("wrong", "problem"), WRONG.values(), ids=WRONG)
def test_a_kernel_that_does_not_is_found(wrong, problem, monkeypatch):
    monkeypatch.setattr(tpu_mlp, "branch", wrong)
    found = compare("tpu.mlp", MLP, TPU).problem
    assert problem in found and "\n" not in found


def test_the_definition_itself_passes(monkeypatch):
    monkeypatch.setattr(tpu_mlp, "branch", xla_mlp)
    verdict = compare("tpu.mlp", MLP, TPU)
    assert not verdict.problem and verdict.gradients < verdict.allowed[1]


def test_attention_to_one_token_too_many_is_found(monkeypatch):
    spec = RIGHT["tpu.attention, owners"]

    def without_owners(query, key, value, biases, spec, device):
        return attention(query, key, value, biases, dataclasses.replace(spec, owners=()))

    monkeypatch.setattr(tpu_attention, "attention", without_owners)
    assert "values and gradients" in compare("tpu.attention", spec, TPU).problem


def test_packing_that_mixes_sequences_is_found(monkeypatch):
    monkeypatch.setattr(packing, "owners", lambda tokens: ())
    assert "values and gradients" in compare("packing", RIGHT["packing"], TPU).problem


def test_colours_off_by_a_level_are_found(monkeypatch):
    monkeypatch.setattr(tpu_colors, "apply_colors", lambda views, *args: views ^ 1)
    assert compare("tpu.colors", COLORS, TPU).problem == "its bytes are not XLA's"


NOT_COMPARED = {
    "operands that cannot be drawn": ("tpu.mlp", dataclasses.replace(MLP, dtype="float7")),
    "a definition that does not run": ("tpu.mlp", dataclasses.replace(MLP, activation="none")),
    "a definition of colours that does not run": (
        "tpu.colors",
        dataclasses.replace(COLORS, max_blur_radius=float("nan")),
    ),
    "a definition that is no number": ("tpu.mlp", dataclasses.replace(MLP, epsilon=float("nan"))),
}


@pytest.mark.parametrize(("name", "spec"), NOT_COMPARED.values(), ids=NOT_COMPARED)
def test_what_cannot_be_compared_is_a_verdict_too(name, spec):
    """And no error: other processes wait for the verdict of each."""
    assert compare(name, spec, TPU).problem.startswith("it cannot be compared here: ")


def test_no_more_is_compared_than_the_definition_has_memory_for():
    """A ViT-S/8 on 256 views of 224 pixels: attention weights of 256 x 6 x 785 x 785 numbers."""
    weights_of_a_view = 6 * 785 * 785 * 4  # bytes
    spec = AttentionSpec(256, 785, 384, 6, "bfloat16", 1 / 8, QKV)
    fewer = within_memory(spec)
    assert 2**29 - weights_of_a_view < fewer.batch * weights_of_a_view <= 2**29
    assert dataclasses.replace(fewer, batch=256) == spec
    branch = AttentionBranchSpec(spec, "layer", 1e-6)
    assert within_memory(branch) == dataclasses.replace(branch, attention=fewer)
    assert within_memory(dataclasses.replace(spec, tokens=2**14)).batch == 1
    mlp = dataclasses.replace(MLP, rows=10**6, hidden=1024)
    assert within_memory(mlp).rows * 1024 * 4 == 2**29
    views = dataclasses.replace(COLORS, views=10**4, height=1024, width=1024)
    assert within_memory(views).views == 2**29 // (1024 * 1024 * 3 * 4)


@pytest.mark.parametrize("spec", RIGHT.values(), ids=RIGHT)
def test_what_fits_is_compared_whole(spec):
    assert within_memory(spec) == spec
