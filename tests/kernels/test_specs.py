"""Implementations take what they list, and nothing that they do not know."""

import dataclasses

import pytest

from ibot_jax.kernels import cudnn, packing
from ibot_jax.kernels.choice import IMPLEMENTATIONS, choose
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
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import colors as tpu_colors
from ibot_jax.kernels.tpu import long_attention as tpu_long_attention
from ibot_jax.kernels.tpu import mlp as tpu_mlp

CPU, GPU = Device(), Device("gpu", "NVIDIA H100", 9.0)
TPU = Device("tpu", "TPU v5 lite", partitioned=False)
# ViT-S/16's, with which each implementation is content.
ATTENTION = AttentionSpec(64, 197, 384, 6, "bfloat16", 64**-0.5, QKV)
LONG_ATTENTION = dataclasses.replace(ATTENTION, batch=8, tokens=1025)  # of 512 pixels
TAKEN = {
    "cudnn": (cudnn, ATTENTION, GPU),
    "packing": (packing, PackingSpec(ATTENTION), TPU),
    "tpu.attention": (tpu_attention, ATTENTION, TPU),
    "tpu.long_attention": (tpu_long_attention, LONG_ATTENTION, TPU),
    "tpu.attention_branch": (
        tpu_attention_branch,
        AttentionBranchSpec(ATTENTION, "layer", 1e-6, gains=True),
        TPU,
    ),
    "tpu.mlp": (
        tpu_mlp,
        MlpBranchSpec(64 * 197, 384, 1536, "bfloat16", "gelu", "layer", 1e-6, gains=True),
        TPU,
    ),
    "tpu.colors": (tpu_colors, ColorsSpec(64, 224, 224, 3, 2.0), TPU),
}
every_one = pytest.mark.parametrize(("module", "spec", "device"), TAKEN.values(), ids=TAKEN)


def test_all_implementations_are_here():
    assert {name for names in IMPLEMENTATIONS.values() for name in names} == set(TAKEN)
    for name, (module, _, _) in TAKEN.items():
        assert module.__name__ == f"ibot_jax.kernels.{name}"


@every_one
def test_each_takes_what_it_is_for_on_its_own_device(module, spec, device):
    assert module.supports(spec, device)
    for other in {CPU, GPU, TPU} - {device}:
        assert not module.supports(spec, other)


@every_one
def test_an_option_that_it_does_not_know_has_to_be_off(module, spec, device):
    """As one that is added to specifications some day."""
    fields = [("new_option", str, dataclasses.field(default="none"))]
    extended = dataclasses.make_dataclass("Extended", fields, bases=(type(spec),), frozen=True)
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    assert module.supports(extended(**values), device)
    assert not module.supports(extended(**values, new_option="rope"), device)


def values_that_no_one_knows(spec):
    """Yields specifications, each with one value that nobody has heard of."""
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            for inner in values_that_no_one_knows(value):
                yield dataclasses.replace(spec, **{field.name: inner})
        elif isinstance(value, str):
            yield dataclasses.replace(spec, **{field.name: "made up"})
    if isinstance(spec, AttentionSpec):
        yield dataclasses.replace(spec, windows=4)


@every_one
def test_a_value_that_it_does_not_know_is_refused(module, spec, device):
    for changed in values_that_no_one_knows(spec):
        assert not module.supports(changed, device), changed


@pytest.mark.parametrize("name", ["tpu.attention_branch", "tpu.mlp"])
@pytest.mark.parametrize(
    "change", [{"layer_scale": True}, {"epsilon": 1e-5}, {"norm": "rms"}], ids=str
)
def test_branches_of_other_kinds_are_left_to_xla(name, change):
    module, spec, device = TAKEN[name]
    assert not module.supports(dataclasses.replace(spec, **change), device)


@pytest.mark.parametrize("name", ["tpu.attention", "tpu.attention_branch"])
@pytest.mark.parametrize(
    "change", [{"biases": ("query", "value")}, {"biases": ()}, {"scale": 1.0}], ids=str
)
def test_attention_of_other_kinds_is_left_to_xla(name, change):
    module, spec, device = TAKEN[name]
    changed = dataclasses.replace(ATTENTION, **change)
    if module is tpu_attention_branch:
        changed = dataclasses.replace(spec, attention=changed)
    assert not module.supports(changed, device)


def test_a_partitioner_never_sees_a_kernel_for_tpus():
    for name, (module, spec, device) in TAKEN.items():
        if device is TPU:
            partitioned = dataclasses.replace(TPU, partitioned=True)
            assert not module.supports(spec, partitioned), name
    of_parts = dataclasses.replace(TPU, tensor=2)
    taken = {
        name for name, (m, spec, d) in TAKEN.items() if d is TPU and m.supports(spec, of_parts)
    }
    assert taken == {"packing", "tpu.attention"}
    assert not tpu_attention.supports(ATTENTION, dataclasses.replace(TPU, tensor=4))  # of 6 heads


@pytest.mark.parametrize(
    ("wanted", "device", "names"),
    [
        ("auto", TPU, IMPLEMENTATIONS["tpu"]),
        ("auto", GPU, ("cudnn",)),
        ("auto", CPU, ()),
        ("pallas", TPU, IMPLEMENTATIONS["tpu"]),
        ("pallas", GPU, ()),
        ("cudnn", GPU, ("cudnn",)),
        ("cudnn", CPU, ()),
        ("xla", TPU, ()),  # packing and colours included
        ("xla", GPU, ()),
    ],
)
def test_a_config_chooses_among_those_of_the_device(wanted, device, names):
    assert choose(wanted, device).names == names
