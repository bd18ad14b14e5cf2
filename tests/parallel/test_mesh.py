"""The same training whatever the mesh; what crosses devices in a step."""

import collections
import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import TINY_SWIN, tiny_batch, tiny_config, tiny_plan

from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.layouts import batch_sharding, replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs import training as steps

KEY = jax.random.key(0)
MESHES = {  # devices, fsdp, tensor
    "1x1x1": (1, 1, 1),
    "8x1x1": (8, 1, 1),
    "1x8x1": (8, 8, 1),
    "2x2x2": (8, 2, 2),
    "1x2x4": (8, 2, 4),
}


def mesh_of(name):
    devices, fsdp, tensor = MESHES[name]
    return make_mesh(jax.devices()[:devices], fsdp=fsdp, tensor=tensor)


def config_of(**overrides):
    """Returns a config whose heads, hidden units and prototypes divide by 4, and most by 8."""
    return tiny_config(
        **dict(
            dtype="float64",
            model__heads=4,
            model__drop_path=0.3,
            head__prototypes=32,
            head__patch_prototypes=32,
            batch_size=16,
            optim__clip=0.3,
        )
        | overrides
    )


def train(config, mesh, steps_done=2):
    """Returns the state after some steps on a mesh, and every step's metrics."""
    plan = tiny_plan(config)
    state = steps.jit_init(config, plan, mesh)(KEY)
    train_step = steps.jit_train_step(config, plan, mesh)
    metrics = []
    for seed in range(steps_done):
        batch = to_global(tiny_batch(config, seed), mesh)
        state, values = train_step(state, batch, KEY)
        metrics.append(values)
    return state, metrics


@pytest.fixture(scope="module")
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


# Separate heads whose prototypes divide by fewer devices, everything in parts and in loops.
IN_PARTS = dict(
    head__shared=False,
    head__shared_teacher=False,
    head__patch_prototypes=24,
    head__norm_last_layer=False,
    loss__max_logits=24 * 8,
    grad_accum_steps=2,
    model__scan_blocks=True,
)


# A Swin, in two parts, that keeps nothing of its blocks.
SWIN = TINY_SWIN | dict(model__remat="blocks", grad_accum_steps=2)
# A ViT with the options of DINOv2 and DINOv3 that other layouts and other draws come with.
HEIR = dict(
    model__registers=3,
    model__ffn="swiglu",
    model__positions="rotary",
    model__rope_shift=0.2,
    model__rope_rescale=1.5,
    model__qkv_bias="masked_key",
    model__qk_norm=True,
    model__layer_scale=0.1,
    model__untie_local_norm=True,
    model__drop_path=0.4,
    model__drop_path_kind="uniform",
    grad_accum_steps=2,
)
# Adapters of all layers, in loops and in parts.
LORA = dict(lora__rank=3, model__scan_blocks=True, grad_accum_steps=2)
# Losses that relate all images of a batch: in groups of two devices, or within one.
OF_BATCHES = dict(
    method="dinov2",
    head__separate=True,
    head__shared=False,
    head__shared_teacher=False,
    head__patch_prototypes=24,
    head__norm_last_layer=False,
    loss__targets="sinkhorn",
    loss__koleo_weight=0.1,
    loss__koleo_group=4,
    loss__koleo_nearest=2,
    loss__local_weight=0.5,
    loss__max_logits=24 * 8,
    model__drop_path_kind="uniform",
    optim__clip_by="module",
    optim__freeze_last_layer_by="rate",
)
CENTERS_OF_MASKED = OF_BATCHES | dict(loss__targets="centering", loss__koleo_group=0)
CASES = {"vit": {}, "vit in parts": IN_PARTS, "swin": SWIN, "heir": HEIR, "lora": LORA}
CASES |= {"dinov2": OF_BATCHES, "dinov2 by centers": CENTERS_OF_MASKED}


@pytest.fixture(scope="module")
def alone(float64):
    """Returns a function from a case to the config, and what one device makes of it."""

    @functools.cache
    def run(case):
        config = config_of(**CASES[case])
        return config, train(config, mesh_of("1x1x1"))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("8x1x1", "vit"),
        ("1x8x1", "vit"),
        ("2x2x2", "vit"),
        ("1x2x4", "vit in parts"),
        ("2x2x2", "swin"),
        ("2x2x2", "heir"),
        ("2x2x2", "lora"),
        ("2x2x2", "dinov2"),
        ("1x2x4", "dinov2 by centers"),
    ],
)
def test_losses_updates_and_centers_are_those_of_one_device(name, case, alone):
    config, expected = alone(case)
    state, metrics = train(config, mesh_of(name))
    for ours, theirs in zip(metrics, expected[1], strict=True):
        assert ours.keys() == theirs.keys()
        # How full the chunks are depends on how many rows a device has.
        for key in ours.keys() - {"masked_capacity_used"}:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-10, err_msg=key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state, expected[0]
    )


def specs(mesh, config):
    state = steps.state_layout(config, tiny_plan(config), mesh)
    return jax.tree.map(lambda x: x.sharding.spec, state)


def test_parameters_moments_and_teacher_lie_in_the_same_parts():
    layout = specs(mesh_of("2x2x2"), tiny_config(head__prototypes=32, head__patch_prototypes=32))
    block = layout.params["backbone"]["blocks_0"]
    assert block["attn"]["qkv"]["kernel"] == PartitionSpec(("fsdp", "tensor"), None)
    assert block["attn"]["proj"]["kernel"] == PartitionSpec("tensor", "fsdp")
    assert block["mlp"]["fc1"]["kernel"] == PartitionSpec("fsdp", "tensor")
    assert block["mlp"]["fc1"]["bias"] == PartitionSpec("tensor")
    assert block["norm1"]["scale"] == PartitionSpec()
    assert layout.params["head"]["last_layer"]["v"] == PartitionSpec("fsdp", "tensor")
    assert layout.params["head"]["last_layer"]["g"] == PartitionSpec(None, "tensor")
    assert layout.buffers["centers"]["class"] == PartitionSpec("tensor")
    assert teacher_params(layout) == layout.params
    moments = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), spec)
        for path, spec in jax.tree_util.tree_leaves_with_path(
            layout.opt_state, is_leaf=lambda x: isinstance(x, PartitionSpec)
        )
    ]
    fc2 = [spec for name, spec in moments if name.endswith("blocks_1/mlp/fc2/kernel")]
    assert fc2 == [PartitionSpec("tensor", "fsdp")] * 3  # first and second moment, teacher


def test_most_of_the_state_is_spread_over_fsdp_and_tensor():
    """Each device holds an eighth of the large tensors, and the small ones whole."""
    config = config_of(dtype="float32", model__width=64, model__depth=4)
    for name in ("1x8x1", "1x2x4"):
        state = steps.state_layout(config, tiny_plan(config), mesh_of(name))
        whole = sum(x.size for x in jax.tree.leaves(state))
        own = sum(
            np.prod(x.sharding.shard_shape(x.shape), dtype=int) for x in jax.tree.leaves(state)
        )
        assert own < 0.2 * whole


def test_a_dimension_that_does_not_divide_stays_whole():
    config = tiny_config(model__width=18)
    layout = specs(mesh_of("1x8x1"), config)
    assert layout.params["backbone"]["blocks_0"]["attn"]["qkv"]["kernel"] == PartitionSpec(
        None, None
    )


def collectives(config, mesh):
    """Returns the collectives of a step by kind: the shapes of their outputs."""
    plan = tiny_plan(config)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)),
        tiny_batch(config),
    )
    key = jax.ShapeDtypeStruct(KEY.shape, KEY.dtype, sharding=replicated(mesh))
    step = steps.jit_train_step(config, plan, mesh)
    text = step.lower(steps.state_layout(config, plan, mesh), batch, key).compile().as_text()
    assert "callback" not in text
    found = collections.defaultdict(list)
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        for types in re.findall(rf"= (.*?) {kind}(?:-start)?\(", text):
            shapes = re.findall(r"[a-z]\d+\[([\d,]*)\]", types)
            found[kind] += [tuple(int(n) for n in shape.split(",") if n) for shape in shapes]
    return found


def sizes(shapes):
    return [int(np.prod(shape)) for shape in shapes]


@pytest.mark.parametrize("overrides", [{}, dict(model__scan_blocks=True, grad_accum_steps=2)])
def test_data_parallel_steps_reduce_each_gradient_once_and_move_nothing_else(overrides):
    config = tiny_config(batch_size=16, **overrides)
    found = collectives(config, mesh_of("8x1x1"))
    assert set(found) == {"all-reduce"}
    state = steps.state_layout(config, tiny_plan(config), mesh_of("8x1x1"))
    gradients = sum(x.size for x in jax.tree.leaves(state.params))
    # Besides them the teacher's outputs [K], the mean target [K], and scalars.
    assert gradients < sum(sizes(found["all-reduce"])) < gradients + 3 * 12 + 20


def test_fsdp_gathers_parameters_and_never_activations():
    config = tiny_config(batch_size=16, model__width=32)
    mesh = mesh_of("1x8x1")
    found = collectives(config, mesh)
    state = steps.state_layout(config, tiny_plan(config), mesh)

    def spread(tree):
        return [x.size for x in jax.tree.leaves(tree) if not x.sharding.is_fully_replicated]

    gathered = spread(state.params) + spread(teacher_params(state))
    assert sorted(sizes(found["all-gather"])) == sorted(gathered)
    assert not found["all-to-all"] and not found["collective-permute"]


@pytest.mark.parametrize(
    ("overrides", "student"),
    [({}, 1), (dict(model__remat="blocks"), 2), (dict(model__remat="dots", grad_accum_steps=2), 2)],
    ids=str,
)
def test_fsdp_gathers_blocks_in_the_dtype_of_the_computation(overrides, student):
    """Once forward, and once more backward where blocks are computed again; sums are float32."""
    config = tiny_config(batch_size=16, model__width=32, dtype="bfloat16", **overrides)
    mesh, plan = mesh_of("1x8x1"), tiny_plan(config)
    state, batch, key = steps.step_arguments(config, plan, mesh)
    text = steps.jit_train_step(config, plan, mesh).lower(state, batch, key).as_text()
    gathered = re.findall(r"all_gather.*?-> tensor<([\dx]+)x(\w+)>", text)
    summed = re.findall(r"reduce_scatter.*?\n(?:.*\n)*?.*?\(tensor<([\dx]+)x(\w+)>\)", text)
    blocks = [
        "x".join(map(str, x.shape))
        for x in jax.tree.leaves(state.params["backbone"]["blocks_0"])
        if not x.sharding.is_fully_replicated
    ]
    depth = config.model.depth
    teacher = 1
    in_bfloat16 = collections.Counter(shape for shape, dtype in gathered if dtype == "bf16")
    assert in_bfloat16 == {
        shape: number * depth * (student + teacher)
        for shape, number in collections.Counter(blocks).items()
    }
    assert {dtype for _, dtype in summed} == {"f32"}
    for shape, number in collections.Counter(blocks).items():
        assert summed.count((shape, "f32")) >= number * depth


@pytest.mark.slow
def test_fsdp_holds_one_block_at_a_time():
    """By the compiler's plan: four blocks more need less than their parameters, gathered."""
    mesh, temporaries = mesh_of("1x8x1"), []
    for depth in (4, 8):
        overrides = dict(model__width=128, model__depth=depth, model__scan_blocks=True)
        config = tiny_config(batch_size=8, model__remat="blocks", **overrides)
        plan = tiny_plan(config)
        state, batch, key = steps.step_arguments(config, plan, mesh)
        step = steps.jit_train_step(config, plan, mesh).lower(state, batch, key)
        temporaries.append(step.compile().memory_analysis().temp_size_in_bytes)
    blocks = [state.params["backbone"][f"blocks_{number}"] for number in range(4)]
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(blocks))
    assert temporaries[1] - temporaries[0] < 0.8 * whole


def test_tensor_sums_activations_and_gathers_only_parameters():
    """Two sums a block forward, behind both branches, and the sums of their inputs' gradients."""
    config = config_of(dtype="float32", model__width=32, model__depth=1, model__drop_path=0.0)
    found = collectives(config, make_mesh(tensor=4))
    # Rows of a device: 8 images, 2 global and 2 local views of 17 and 5 tokens.
    global_views, local_views = (16, 17, 32), (16, 5, 32)
    kernel = 32 * 3 * 32  # of the layer that is split into heads
    for kind in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        for shape in found[kind]:
            assert np.prod(shape) <= kernel and (len(shape) < 3 or shape[0] != 16), (kind, shape)
    # Teacher forward, student forward; backward of the inputs of q, k, v and of the MLP.
    assert found["all-reduce"].count(global_views) <= 2 + 2 + 4
    assert found["all-reduce"].count(local_views) <= 2 + 4
