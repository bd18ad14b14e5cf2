"""Object discovery: planted objects in VOC's layout, and the whole command with a tiny model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from ibot_jax import load
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.voc_boxes import find_scenes
from ibot_jax.evaluate.measures import objects
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.tasks import discovery
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.pixels import normalize

SQUARES = Geometry(4, 4, widths=(3,), depths=(1,), heads=(1,))
NAMES = ("000005", "000007", "000009")
BOX = (
    "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def voc(tmp_path):
    """Three images of 30 x 42 pixels, which fill no patches of 4, with an object each."""
    root = tmp_path / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(NAMES) + "\n")
    for number, name in enumerate(NAMES):
        pixels = np.full((30, 42, 3), (40, 200, 210), np.uint8)
        top, left = 4 + 4 * number, 8 + 4 * number  # the last one touches the lower edge
        pixels[top : top + 20, left : left + 16] = (220, 40, 30)
        Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=95, subsampling=0)
        box = BOX.format(left + 1, top + 1, left + 16, min(top + 20, 30))
        size = "<size><width>42</width><height>30</height><depth>3</depth></size>"
        text = f"<annotation>{size}{box}{BOX.format(1, 1, 3, 2)}</annotation>"
        (root / f"Annotations/{name}.xml").write_text(text)
    return root


def patch_colors(params, image):
    """Features without a place: the mean colour of each patch of 4 x 4 pixels, grey where none."""
    height, width, _ = image.shape
    image = jnp.pad(
        params * (image.astype(jnp.float32) - 128), ((0, -height % 4), (0, -width % 4), (0, 0))
    )
    return image.reshape(-(-height // 4), 4, -(-width // 4), 4, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("method", [objects.lost, objects.token_cut])
def test_planted_objects_are_found_to_the_pixel(voc, method):
    scenes = find_scenes(epath.Path(voc), "trainval")
    assert [scene.image.stem for scene in scenes] == list(NAMES)
    assert scenes[0].size == (30, 42)
    np.testing.assert_array_equal(scenes[0].boxes, [[8, 4, 24, 24], [0, 0, 3, 2]])
    found = discovery.discover(
        patch_colors, jnp.float32(1), {"one": method}, Decoding(), SQUARES, scenes
    )
    for scene, (box,) in zip(scenes, found, strict=True):
        np.testing.assert_array_equal(box, scene.boxes[0])


def test_an_interrupted_search_goes_on(voc, tmp_path, monkeypatch):
    """After the first of three images, which is then not looked at again."""
    monkeypatch.setattr(discovery, "_KEPT_EVERY", 1)
    scenes = find_scenes(epath.Path(voc), "trainval")
    looked = []

    def find(some):
        for scene in some:
            looked.append(scene.image.stem)
            if len(looked) == 2:
                raise KeyboardInterrupt
            yield scene.boxes[:1]

    kept = Kept(str(tmp_path), "discovery", {"of": "this"})
    with pytest.raises(KeyboardInterrupt):
        discovery.search(find, scenes, 1, kept)
    found = discovery.search(find, scenes, 1, kept)
    assert looked == [NAMES[0], NAMES[1], NAMES[1], NAMES[2]]
    np.testing.assert_array_equal(found, [scene.boxes[:1] for scene in scenes])
    with pytest.raises(UserError, match=r"discovery-\w+\.npz is damaged .*; remove it"):
        discovery.search(find, scenes, 2, kept)


def test_images_are_filled_up_with_the_mean_colour(workdir):
    """Keys are those of the padded image, whose borders are zeros once it is normalised."""
    model, params = load(workdir)
    image = np.random.default_rng(0).integers(0, 256, (14, 18, 3), np.uint8)
    data = model.config.data
    padded = np.zeros((1, 16, 20, 3), np.float32)
    padded[0, :14, :18] = normalize(image, data.mean, data.std, jnp.float32)
    attention = model.attention(params, padded, floats="normalized")
    keys = discovery.make_map_fn(model, "keys")(params, image)
    assert keys.shape == (4, 5, model.geometry.width)
    np.testing.assert_allclose(keys, attention.keys[0], atol=1e-5)
    patches = discovery.make_map_fn(model, "patches")(params, image)
    expected = model.features(params, padded, floats="normalized").patches[0]
    np.testing.assert_allclose(patches, expected, atol=1e-5)


def test_the_command_measures_both_methods(voc, workdir, tmp_path):
    """Of two of the three images, the first and the last."""
    out = tmp_path / "out"
    flags = [f"--from={workdir}", f"--data={voc}", f"--out={out}", "--pictures=2", "--max-images=2"]
    assert command.main(["discovery", *flags]) == 0
    report = json.loads((out / "discovery.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["lost", "tokencut"]
    for row in report["rows"]:
        assert row["images"] == 2
        assert row["corloc"] == report["metrics"][f"{row['method']}_corloc"]
        assert row["corloc"] in (0, 50, 100)
    pictures = sorted((out / "discovery").iterdir())
    assert [path.name for path in pictures] == ["000005.png", "000009.png"]
    assert np.asarray(Image.open(pictures[0]))[4, 15].tolist() in (
        [40, 220, 60],
        [60, 130, 250],
        [240, 40, 40],
    )


def forget_listing(root):
    (root / "ImageSets/Main/trainval.txt").unlink()


def forget_boxes(root):
    (root / "Annotations/000007.xml").unlink()


def forget_image(root):
    (root / "JPEGImages/000007.jpg").unlink()


def cut_off(root):
    path = root / "Annotations/000007.xml"
    path.write_text(path.read_text()[:30])


def empty(root):
    (root / "Annotations/000007.xml").write_text(
        "<annotation><size><width>42</width><height>30</height></size></annotation>"
    )


def enlarge(root):
    path = root / "Annotations/000007.xml"
    path.write_text(path.read_text().replace("<width>42", "<width>45"))


def shrink(root):
    path = root / "Annotations/000007.xml"
    path.write_text(path.read_text().replace("<width>42", "<width>20"))


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (forget_listing, [], "Main/trainval.txt is absent: the names of the images (VOCdevkit"),
        (forget_boxes, [], "000007.xml is absent: the boxes of an image (VOCdevkit/VOC2007 or"),
        (forget_image, [], "000007.jpg is absent"),
        (cut_off, [], "000007.xml is no annotation of VOC ("),
        (empty, [], "000007.xml names no object"),
        (enlarge, [], "000007.jpg has 30x42 pixels, but its annotation says 30x45"),
        (shrink, [], "000007.xml has a box that does not fit its image of 30x20"),
        (None, ["--split=test"], "ImageSets/Main/test.txt is absent"),
        (None, ["--methods=cut"], "'cut' is none of lost, tokencut"),
        (None, ["--tau=2"], "'2' is no number from 0 to 1"),
    ],
)
def test_mistakes_are_one_line_and_status_2(mistake, voc, change, flags, message):
    if change:
        change(voc)
    assert message in mistake("discovery", voc, *flags)
