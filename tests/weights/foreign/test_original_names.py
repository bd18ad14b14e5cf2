"""Names and layouts of the original's tensors."""

import json

import jax
import numpy as np
import pytest

from ibot_jax.config import VIT_SIZES, get_config
from ibot_jax.config.plan import make_plan
from ibot_jax.runs.training import make_init
from ibot_jax.weights.foreign import original_names


def test_a_recorded_student_survives_the_round_trip(step_small):
    arrays = np.load(step_small)
    prefix = "init/student/"
    tensors = {
        name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
    }
    back = original_names.to_torch(original_names.to_flax(tensors, shared_head=True), patch_size=4)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_published_models_have_the_names_and_shapes_of_ours(size, reference):
    """The whole student, with its head of 8,192 prototypes; arrays of zeros take no memory."""
    config = get_config()
    config.model.update(VIT_SIZES[size])
    plan = make_plan(config, 100 * config.batch_size)
    state = jax.eval_shape(make_init(config, plan), jax.random.key(0))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.params)
    ours = {name: list(x.shape) for name, x in original_names.to_torch(zeros, 16).items()}
    assert ours == json.loads(reference("state_dict_shapes.json").read_text())[f"vit_{size}"]


def test_the_patch_projection_becomes_a_map_of_flattened_channels_last_patches():
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 2))  # (D, C, p, p)
    patch = np.random.default_rng(1).normal(size=(2, 2, 3))  # [p, p, C]
    kernel = original_names.to_flax({"backbone.patch_embed.proj.weight": weight}, True)
    kernel = kernel["backbone"]["patch_embed"]["proj"]["kernel"]
    expected = np.einsum("dcij,ijc->d", weight, patch)
    np.testing.assert_allclose(patch.reshape(-1) @ kernel, expected)


def test_a_swins_bias_tables_lie_beside_their_indices():
    """Against a loop over all pairs of a window, as the buffer is described."""
    table = np.arange(25 * 2.0).reshape(25, 2)
    name = "backbone.layers.2.blocks.1.attn.relative_position_bias_table"
    params = original_names.to_flax({name: table}, shared_head=True)
    tensors = original_names.to_torch(params, patch_size=4)
    index = np.zeros((9, 9), np.int64)
    for query, key in np.ndindex(9, 9):
        down, right = query // 3 - key // 3, query % 3 - key % 3
        index[query, key] = (down + 2) * 5 + right + 2
    assert tensors.keys() == {name, name.replace("bias_table", "index")}
    np.testing.assert_array_equal(tensors[name], table)
    np.testing.assert_array_equal(tensors[name.replace("bias_table", "index")], index)
    back = original_names.to_flax(tensors, shared_head=True)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(KeyError, match="backbone.blocks.0.attn.rel_pos"):
        original_names.to_flax({"backbone.blocks.0.attn.rel_pos": np.zeros(1)}, True)
