"""Names and layouts of the original's tensors."""

import numpy as np
import pytest

from ibot_jax.convert import torch_names


def test_a_recorded_student_survives_the_round_trip(step_small):
    arrays = np.load(step_small)
    prefix = "init/student/"
    tensors = {
        name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
    }
    back = torch_names.to_torch(torch_names.to_flax(tensors, shared_head=True), patch_size=4)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_the_patch_projection_becomes_a_map_of_flattened_channels_last_patches():
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 2))  # (D, C, p, p)
    patch = np.random.default_rng(1).normal(size=(2, 2, 3))  # [p, p, C]
    kernel = torch_names.to_flax({"backbone.patch_embed.proj.weight": weight}, True)
    kernel = kernel["backbone"]["patch_embed"]["proj"]["kernel"]
    expected = np.einsum("dcij,ijc->d", weight, patch)
    np.testing.assert_allclose(patch.reshape(-1) @ kernel, expected)


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(KeyError, match="backbone.blocks.0.attn.rel_pos"):
        torch_names.to_flax({"backbone.blocks.0.attn.rel_pos": np.zeros(1)}, True)
