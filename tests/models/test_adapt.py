"""Other patches, channels and blocks: by what tokens become of images, and by recorded numbers."""

import jax
import numpy as np
import pytest
from PIL import Image

from ibot_jax.models import adapt


def backbone(patch, channels, width=6, seed=0):
    kernel = np.random.default_rng(seed).normal(size=(patch * patch * channels, width))
    return {"patch_embed": {"proj": {"kernel": kernel, "bias": np.ones(width)}}, "cls_token": 1}


def kernel_of(params):
    return params["patch_embed"]["proj"]["kernel"]


@pytest.mark.parametrize(("old", "new"), [(4, 6), (8, 14), (5, 10), (14, 16)])
def test_a_larger_patch_gives_the_tokens_of_the_smaller_one_on_images_resized_by_pillow(old, new):
    params = backbone(old, 3)
    larger = adapt.with_patches(params, old, new)
    assert kernel_of(larger).shape == (new * new * 3, 6)
    assert larger["cls_token"] == 1 and larger["patch_embed"]["proj"]["bias"] is not None
    image = np.random.default_rng(1).normal(size=(old, old, 3)).astype(np.float32)
    channels = [Image.fromarray(image[..., c]).resize((new, new), Image.BILINEAR) for c in range(3)]
    resized = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    np.testing.assert_allclose(
        resized.ravel() @ kernel_of(larger), image.ravel() @ kernel_of(params), atol=1e-4
    )


def test_a_smaller_patch_is_the_least_squares_solution():
    """Of all pixels at once, not axis by axis: min |B^T w' - w|, as in FlexiViT's equation 3."""
    old, new = 6, 4
    weights = np.zeros((new, old))
    for i, center in enumerate((np.arange(new) + 0.5) * old / new - 0.5):
        low = int(np.floor(center))
        weights[i, low], weights[i, low + 1] = 1 - (center - low), center - low
    both = np.einsum("yi,xj->yxij", weights, weights).reshape(new * new, old * old)
    params = backbone(old, 2)
    kernel = kernel_of(params).reshape(old * old, -1)
    expected = np.linalg.lstsq(both.T, kernel, rcond=None)[0]
    found = kernel_of(adapt.with_patches(params, old, new)).reshape(new * new, -1)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_resizing_is_that_of_jax():
    for old, new in ((4, 7), (16, 8), (14, 16), (5, 5)):
        expected = jax.image.resize(np.eye(old), (new, old), "bilinear", antialias=False)
        np.testing.assert_allclose(adapt.bilinear_matrix(old, new), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [4, 5, 8])
def test_recorded_channels(channels, reference):
    """The old filters, then their mean, all times 3 / N."""
    tables = np.load(reference("recipe_tables.npz"))
    width, _, patch, _ = tables["expand/weight"].shape
    kernel = tables["expand/weight"].transpose(2, 3, 1, 0).reshape(-1, width)
    params = {"patch_embed": {"proj": {"kernel": kernel}}}
    shares = adapt.channel_shares([0, 1, 2, *["mean"] * (channels - 3)], 3)
    found = kernel_of(adapt.with_channels(params, patch, shares))
    found = found.reshape(patch, patch, channels, width).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(found, tables[f"expand/{channels}"], atol=1e-15)


def test_channels_by_what_they_mean_for_images():
    params, image = backbone(2, 3), np.random.default_rng(1).normal(size=(2, 2, 3))
    token = image.ravel() @ kernel_of(params)

    def seen(entries, image):
        shares = adapt.channel_shares(entries, 3)
        return image.ravel() @ kernel_of(adapt.with_channels(params, 2, shares))

    grey = image[..., :1]
    same = np.repeat(grey, 3, axis=-1).ravel() @ kernel_of(params)
    np.testing.assert_allclose(seen(["mean"], grey), same)
    nothing = np.concatenate([image, 9 * grey], axis=-1)
    np.testing.assert_allclose(seen([0, 1, 2, "zero"], nothing), token)
    np.testing.assert_allclose(seen([2, 1, 0], image[..., ::-1]), token)
    twice = np.concatenate([grey, grey], axis=-1)
    red = np.concatenate([grey, 0 * twice], axis=-1).ravel() @ kernel_of(params)
    np.testing.assert_allclose(seen([0, 0], twice), 3 * red)  # 3 / 2 of each


def test_blocks_are_dropped_and_repeated_in_the_order_said():
    params = {"norm": 0, **{f"blocks_{i}": {"kernel": np.full(2, i)} for i in range(12)}}
    found = adapt.with_blocks(params, (0, 11, 5, 5))
    assert found.keys() == {"norm", "blocks_0", "blocks_1", "blocks_2", "blocks_3"}
    assert [found[f"blocks_{i}"]["kernel"][0] for i in range(4)] == [0, 11, 5, 5]
