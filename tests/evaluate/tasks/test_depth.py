"""Depth of planes whose colour tells how far away they are, and the whole command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from planes import SIZE, write_planes

from ibot_jax import predict
from ibot_jax.convert import __main__ as convert
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.depth.data import find_splits
from ibot_jax.evaluate.probes import depth_training, steps
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.tasks.depth import make_patch_fn, spaced_blocks
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    return write_planes(tmp_path_factory.mktemp("nyu"))


def patch_greys(params, images):
    """Features: powers of the mean grey of patches of 4 pixels, and one."""
    batch, height, width, _ = images.shape
    patches = images[..., 0].astype(jnp.float32).reshape(batch, height // 4, 4, width // 4, 4)
    grey = params * patches.mean(axis=(2, 4)) / 128 - 1
    centers = jnp.linspace(-1, 1, 12)
    return jnp.exp(-(((grey[..., None] - centers) / 0.15) ** 2))


def make_setting(**overrides):
    values = dict(
        patch_fn=patch_greys,
        params=jnp.float32(1),
        mesh=make_mesh(),
        rows=all_rows(8),
        steps=400,
        learning_rate=0.3,
        crop=(16, 24),
        seed=0,
    )
    return depth_training.Setting(**values | overrides)


def test_planes_are_found(planes, tmp_path):
    train, test = find_splits("nyu", epath.Path(planes), Decoding())
    setting = make_setting()
    head = depth_training.fit(setting, train, str(tmp_path), {})
    found = depth_training.measure(setting, head, test)
    untrained = jax.tree.map(jnp.zeros_like, head)
    assert found["rmse"] < 0.2 * depth_training.measure(setting, untrained, test)["rmse"]
    assert found["a1"] > 0.95


def test_a_training_that_was_interrupted_goes_on(planes, tmp_path, monkeypatch):
    train, _ = find_splits("nyu", epath.Path(planes), Decoding())
    monkeypatch.setattr(steps, "_SAVE_EVERY", 2)
    whole = depth_training.fit(make_setting(steps=7), train, str(tmp_path / "whole"), {})

    class Power(Exception):
        pass

    def cut(self, arrays, write=Kept.write):
        write(self, arrays)
        if arrays["step"] == 4:
            raise Power

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "write", cut)
        with pytest.raises(Power):
            depth_training.fit(make_setting(steps=7), train, str(tmp_path / "cut"), {})
    again = depth_training.fit(make_setting(steps=7), train, str(tmp_path / "cut"), {})
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_crops_are_a_function_of_seed_and_epoch(planes):
    train, _ = find_splits("nyu", epath.Path(planes), Decoding())

    def crops(epoch):
        (batch,) = train.crops(np.arange(8), (8, 20), all_rows(8), [0, epoch])
        return batch

    first = crops(0)
    assert first["images"].shape == (8, 8, 20, 3) and first["depths"].shape == (8, 8, 20)
    jax.tree.map(np.testing.assert_array_equal, first, crops(0))
    assert not np.array_equal(first["depths"], crops(1)["depths"])


def test_the_frame_of_nyu_is_not_trained_on(tmp_path):
    """The largest crop is what Eigen's followers leave of 480 x 640 pixels, 427 x 565."""
    root = write_planes(tmp_path, size=(480, 640), train=1, test=1)
    train, _ = find_splits("nyu", epath.Path(root), Decoding())
    (batch,) = train.crops([0], (427, 565), all_rows(1), [0, 0])
    assert batch["depths"].shape == (1, 427, 565)
    with pytest.raises(UserError, match="has 427x565 pixels to train on, fewer than --crop=428"):
        next(train.crops([0], (428, 565), all_rows(1), [0, 0]))


def test_kitti_is_cut_at_the_bottom_and_its_images_without_depths_left_out(tmp_path):
    root = write_planes(tmp_path, "kitti", size=(375, 1242), train=1, test=1)
    listing = root / "kitti_eigen_test.txt"
    listing.write_text(listing.read_text() + "room_kitti_/9.png None 721.5\n")
    _, test = find_splits("kitti", epath.Path(root), Decoding())
    assert len(test) == 1
    pixels, metres = test.read(0)
    assert pixels.shape == (352, 1216, 3) and metres.shape == (352, 1216)
    raw = np.asarray(Image.open(test.depths[0])).astype(np.float32) / 256
    np.testing.assert_array_equal(metres, raw[23:, 13:1229])


def test_blocks_are_evenly_spaced():
    assert spaced_blocks(12, 4) == (2, 5, 8, 11)
    assert spaced_blocks(24, 4) == (4, 11, 17, 23)
    assert spaced_blocks(40, 4) == (9, 19, 29, 39)
    assert spaced_blocks(12, 1) == (11,)


def test_patches_are_not_normalised_and_have_the_class_token_beside_them(loaded):
    model, params = loaded
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    found = make_patch_fn(model, (1,))(params, jnp.asarray(images))
    width = model.geometry.width
    assert found.shape == (2, 4, 4, 2 * width)
    (tokens,) = model.layers(params, images, (1,))
    norm = params["backbone"]["norm"]
    centered = found - jnp.mean(found[..., :width], -1, keepdims=True)
    scaled = centered[..., :width] / jnp.sqrt(found[..., :width].var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        scaled * norm["scale"] + norm["bias"], tokens.patches, rtol=1e-4, atol=1e-4
    )
    assert np.ptp(np.asarray(found[..., width:]), axis=(1, 2)).max() == 0


def test_images_that_are_no_whole_patches_get_a_margin(loaded):
    model, params = loaded
    images = np.random.default_rng(0).integers(0, 256, (1, 13, 18, 3), dtype=np.uint8)
    data = model.config.data
    padded = np.zeros((1, 16, 20, 3), np.float32)  # of three rows two below
    padded[:, 1:14, 1:19] = (images / 255 - np.array(data.mean)) / np.array(data.std)
    wanted = model.layers(params, padded, (1,), normalized=False, floats="normalized")
    found = make_patch_fn(model, (1,))(params, jnp.asarray(images))
    width = model.geometry.width
    np.testing.assert_allclose(found[..., :width], wanted[0].patches, atol=1e-5)


@pytest.mark.slow
def test_the_command_and_what_it_finds_of_other_images(planes, workdir, tmp_path, capsys):
    flags = [f"--from={workdir}", f"--data={planes}", "--layout=nyu", f"--out={tmp_path}"]
    flags += ["--crop", "16", "24", "--batch-size=8", "--steps=3", "--blocks=1"]
    assert command.main(["depth", *flags]) == 0
    report = json.loads((tmp_path / "depth.json").read_text())
    assert report["rows"][0]["images"] == 5
    assert 0 < report["metrics"]["rmse"] < 10 and 0 <= report["metrics"]["a1"] <= 1
    others, source = tmp_path / "others", f"--from={tmp_path / 'depth.json'}"
    (others / "a/b").mkdir(parents=True)
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(others / "a/b/wide.png")
    shown = np.asarray(Image.open(planes / "room_nyu_te/rgb_0.png"))
    Image.fromarray(shown).save(others / "plane.png")
    (others / "broken.png").write_bytes(b"no image")
    flags = [source, f"--data={others}", f"--out={tmp_path / 'found'}", "--pictures=9"]
    assert predict.main(flags) == 0
    out = capsys.readouterr().out
    assert "2 images, 1 skipped: " in out and "depths (1000 of them a metre, up to 10 m)" in out
    millimetres = np.asarray(Image.open(tmp_path / "found/depths/a/b/wide.png"))
    assert millimetres.shape == (30, 50) and millimetres.dtype == np.uint16
    assert 1 <= millimetres.min() <= millimetres.max() <= 10_000
    assert Image.open(tmp_path / "found/pictures/plane.png").size == (2 * SIZE[1], SIZE[0])
    # The program says the same of an image of the test images' size.
    assert convert.main([source, f"--out={tmp_path / 'x'}", "--to=stablehlo"]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "x").read_bytes()))
    metres = np.asarray(program.call(shown[None])["depths"][0])
    found = np.asarray(Image.open(tmp_path / "found/depths/plane.png"))
    np.testing.assert_allclose(1000 * metres, found, atol=0.51)
    capsys.readouterr()
    (others / "plane.jpg").write_bytes((others / "plane.png").read_bytes())
    for other, message in (
        (["--overwrite"], "would both be written to plane.png; give them different names"),
        (["--overwrite", "--size=32"], "--size has no place beside a report"),
        ([], "exists; choose another path"),
        (["--overwrite", f"--from={planes / 'nyu_test.json'}"], "is no report"),
    ):
        assert predict.main([*flags, *other]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def remove_depth(root):
    (root / "room_nyu_tr/depth_0.png").unlink()


def grey_depth(root):
    path = root / "room_nyu_te/depth_0.png"
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)


def grow_image(root):
    Image.new("RGB", (9, 9)).save(root / "room_nyu_te/rgb_0.png")


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (remove_depth, [], "room_nyu_tr/depth_0.png is absent, which "),
        (grey_depth, [], "room_nyu_te/depth_0.png holds L, not depths (greys of 16 bits)"),
        (grow_image, [], "rgb_0.png has 9x9 pixels, but "),
        (None, ["--layout=kitti"], "kitti_eigen_train.txt is absent: lines of an image"),
        (None, ["--crop", "99", "8"], "has 21x28 pixels to train on, fewer than --crop=99 8"),
        (None, ["--blocks=2"], "--blocks=2 is neither 1 nor 4"),
        (None, ["--blocks=4"], "--blocks=4 is more than the 2 of the model"),
        (None, ["--batch-size=16"], "--batch-size=16 is more than the 10 training images"),
    ],
)
def test_mistakes_are_one_line_and_status_2(workdir, tmp_path, capsys, change, flags, message):
    root = write_planes(tmp_path / "data")
    if change:
        change(root)
    common = [f"--from={workdir}", f"--data={root}", f"--out={tmp_path / 'out'}", "--layout=nyu"]
    common += ["--crop", "16", "24", "--batch-size=8", "--steps=1", "--blocks=1"]
    assert command.main(["depth", *common, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
