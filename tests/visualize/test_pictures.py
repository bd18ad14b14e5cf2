"""Images as the model sees them: whole patches, the aspect kept, spread over what there is."""

import argparse
import dataclasses

import numpy as np
import pytest
from planted import save_images

from ibot_jax.data.pixels.unreadable import UnreadableImage
from ibot_jax.errors import UserError
from ibot_jax.models.geometry import Geometry
from ibot_jax.visualize import pictures

SQUARES = Geometry(16, 16, widths=(8,), depths=(1,), heads=(1,))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((375, 500, 3), 448, (336, 448, 3)),
        ((500, 375, 3), 448, (448, 336, 3)),
        ((32, 32, 3), 224, (224, 224, 3)),
        ((64, 48), 100, (96, 80, 1)),  # 6.25 and 4.69 patches
        ((20, 200, 4), 160, (16, 160, 4)),
    ],
)
def test_images_become_whole_patches_of_the_same_shape(shape, size, expected):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert pictures.fit(image, size, SQUARES).shape == expected


def test_what_is_where_stays_there():
    image = np.zeros((30, 60, 3), np.uint8)
    image[:15, 30:] = 255
    fitted = pictures.fit(
        image, 32, dataclasses.replace(SQUARES, patch_size=4, stride=4)
    )  # [16, 32]
    assert fitted[:7, 17:].min() > 250 and fitted[9:].max() < 5 and fitted[:, :15].max() < 5


@pytest.mark.parametrize(("shape", "size"), [((15, 99), 64), ((99, 15), 64), ((16, 400), 160)])
def test_less_than_a_patch_is_refused(shape, size):
    with pytest.raises(UnreadableImage, match="smaller than a patch of 16 x 16"):
        pictures.fit(np.zeros(shape, np.uint8), size, SQUARES)


def test_pictures_are_spread_over_all():
    np.testing.assert_array_equal(pictures.spread(3, 11), [0, 5, 10])
    np.testing.assert_array_equal(pictures.spread(9, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(pictures.spread(1, 5), [0])


def test_named_files_are_all_shown_and_folders_in_part(tmp_path):
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in range(7)]
    folder = save_images(tmp_path / "a", *images)
    files = [f"{folder}/{i:03d}.png" for i in (6, 0, 3)]
    args = argparse.Namespace(
        split="train", data_dir="", out="figure.png", number=None, default_number=2
    )

    def shown(names, number=None):
        source = pictures.open_images(
            argparse.Namespace(**vars(args) | {"images": names}), channels=3
        )
        args.number = number
        return [source.describe(i)[-7:] for i in pictures.choose(args, source)]

    assert shown(files) == ["006.png", "000.png", "003.png"]
    assert shown([folder]) == ["000.png", "006.png"]
    assert shown([folder], number=3) == ["000.png", "003.png", "006.png"]
    with pytest.raises(UserError, match="100 images are more than the 64"):
        shown([files[0]] * 100)
