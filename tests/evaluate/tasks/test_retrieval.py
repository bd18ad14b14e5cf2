"""Retrieval with made features, and the whole command with a tiny model."""

import json
import pickle
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny import tiny_config

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.tasks import retrieval
from ibot_jax.models.architectures import geometry_of

COLORS = np.array([[220, 40, 40], [40, 200, 50], [30, 60, 220]], np.uint8)


@pytest.fixture
def data(tmp_path):
    """Three colours, three images of each; a query shows one in its box and another around it."""
    folder = tmp_path / "roxford5k"
    (folder / "jpg").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def save(name, color, shape, box=None, inner=None):
        pixels = np.broadcast_to(color, (*shape, 3)).copy()
        if box is not None:
            left, top, right, bottom = box
            pixels[top:bottom, left:right] = inner
        noise = rng.integers(-8, 9, pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "jpg" / f"{name}.jpg", quality=95, subsampling=0)

    imlist = [f"image{i}" for i in range(9)]
    for i, name in enumerate(imlist):
        save(name, COLORS[i // 3], (20, 36))
    gnd = []
    for i in range(3):
        box = (4, 2, 26, 14)
        save(f"query{i}", COLORS[(i + 1) % 3], (24, 30), box, COLORS[i])
        same = np.arange(3 * i, 3 * i + 3)
        gnd.append({"easy": same[:2], "hard": same[2:], "junk": [], "bbx": box})
    truth = {"imlist": imlist, "qimlist": [f"query{i}" for i in range(3)], "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return tmp_path


def test_what_a_box_shows_is_described_at_the_size_asked_for(data):
    folder = epath.Path(data) / "roxford5k/jpg"
    seen = []

    def describe(pixels):
        seen.append(pixels)
        return jnp.asarray(pixels.mean(axis=(0, 1)))

    images = [(folder / "query0.jpg", (4, 2, 26, 14)), (folder / "image0.jpg", None)]
    features = retrieval.features(describe, images, size=18, decoding=Decoding())
    assert [pixels.shape for pixels in seen] == [(10, 18, 3), (10, 18, 3)]
    np.testing.assert_allclose(features[0], COLORS[0], atol=6)
    retrieval.features(describe, images[1:], size=512, decoding=Decoding())
    assert seen[-1].shape == (20, 36, 3)  # never enlarged


def test_a_feature_is_the_mean_class_token_of_three_scales():
    """Scales by PyTorch's rule: pixel i shows place (i + 0.5) / scale - 0.5, shape rounded down.

    The made class token is the first and the last pixel of the image, cut to whole patches.
    """

    def features(params, images, *, floats):
        assert floats == "normalized"
        corners = jnp.concatenate([images[:, 0, 0], images[:, -1, -1]], axis=-1)
        return SimpleNamespace(cls=params * corners)

    config = tiny_config(data__mean=(0.5, 0.25, 0.125))
    geometry = geometry_of(config.model)
    model = SimpleNamespace(features=features, config=config, geometry=geometry)
    pixels = np.random.default_rng(0).integers(0, 256, (21, 26, 3), dtype=np.uint8)
    image = (pixels / 255 - config.data.mean) / config.data.std
    corners = []
    for scale in (1, 2**-0.5, 0.5):
        view = image
        for axis in (0, 1):
            length = int(image.shape[axis] * scale)
            place = (np.arange(length) + 0.5) / scale - 0.5
            below = np.floor(place).astype(int)
            share = (place - below).reshape(-1, *[1] * (2 - axis))
            last = view.shape[axis] - 1
            low, high = (np.take(view, np.clip(i, 0, last), axis) for i in (below, below + 1))
            view = low * (1 - share) + high * share
        height, width = (side // 4 * 4 for side in view.shape[:2])
        corners.append(np.concatenate([view[0, 0], view[height - 1, width - 1]]))
    expected = np.mean(corners, axis=0)
    found = retrieval.make_describe(model, retrieval.SCALES)(1.0, pixels)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.slow
def test_the_command_finds_what_looks_alike(data, workdir, tmp_path):
    out = tmp_path / "out"
    flags = [f"--from={workdir}", f"--data={data}", f"--out={out}", "--size=18"]
    assert command.main(["retrieval", *flags, "--single-scale"]) == 0
    report = json.loads((out / "retrieval.json").read_text())
    assert [row["setup"] for row in report["rows"]] == ["easy", "medium", "hard"]
    # Colours alone tell these images apart, which a random model keeps; the colour around the
    # box, were it not cut, would rank first for each query.
    assert report["metrics"]["medium_map"] == 100 and report["metrics"]["medium_mp@1"] == 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=rparis6k"], "rparis6k is no folder; see --help"),
        (["--dataset=oxford"], "invalid choice: 'oxford'"),
        (["--size=3"], "at 2x3 pixels it is smaller than a patch of 4"),
        (["--size=0"], "0 is not above 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(data, mistake, flags, message):
    assert message in mistake("retrieval", data, *flags)


def test_an_image_that_is_none_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.jpg cannot be read"):
        retrieval.features(jnp.asarray, [(epath.Path(tmp_path / "a.jpg"), None)], 8, Decoding())
