"""Depth of planes whose colour tells how far away they are, and the whole command."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from planes import SIZE, write_planes, write_sun_rgbd
from runs import save_run
from tiny import tiny_config, tiny_plan

from ibot_jax import predict
from ibot_jax.convert import __main__ as convert
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.depth import data
from ibot_jax.evaluate.benchmarks.depth.data import LAYOUTS, find_splits, find_sun_rgbd
from ibot_jax.evaluate.common import memory
from ibot_jax.evaluate.probes import depth_head, depth_training, steps
from ibot_jax.evaluate.probes.depth_head import DepthHead
from ibot_jax.evaluate.probes.depth_training import Head
from ibot_jax.evaluate.probes.dpt_head import DPTHead
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.reopening import reopen
from ibot_jax.evaluate.tasks import depth
from ibot_jax.evaluate.tasks.depth import chosen_blocks, make_head, make_patch_fn, spaced_blocks
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.tokens import Tokens
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows
from ibot_jax.runs.training import make_init
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    return write_planes(tmp_path_factory.mktemp("nyu"))


def patch_greys(params, images):
    """Features: how near the mean grey of patches of 4 pixels is to each of twelve."""
    batch, height, width, _ = images.shape
    patches = images[..., 0].astype(jnp.float32).reshape(batch, height // 4, 4, width // 4, 4)
    grey = params * patches.mean(axis=(2, 4)) / 128 - 1
    centers = jnp.linspace(-1, 1, 12)
    return jnp.exp(-(((grey[..., None] - centers) / 0.15) ** 2))


def token_greys(params, images):
    """The same as tokens of four layers with an empty class token."""
    patches = patch_greys(params, images)
    flat = patches.reshape(len(images), -1, patches.shape[-1])
    tokens = Tokens(jnp.pad(flat, ((0, 0), (1, 0), (0, 0))), patches.shape[1:3])
    return (tokens,) * 4


def make_setting(**overrides):
    depths = functools.partial(depth_head.depths, nearest=1e-3, farthest=10.0)
    values = dict(
        head=Head(patch_greys, DepthHead.start, depths),
        params=jnp.float32(1),
        mesh=make_mesh(),
        rows=all_rows(8),
        steps=7,
        learning_rate=0.3,
        crop=(16, 24),
        seed=0,
    )
    return depth_training.Setting(**values | overrides)


ONE_DEVICE = make_mesh(jax.devices()[:1])  # where the many steps are quicker


def test_planes_are_found(planes, tmp_path):
    train, test = find_splits("nyu", epath.Path(planes), Decoding())
    setting = make_setting(mesh=ONE_DEVICE, steps=200)
    head = depth_training.fit(setting, train, str(tmp_path), {})
    found = depth_training.measure(setting, head, test)
    untrained = jax.tree.map(jnp.zeros_like, head)
    assert found["rmse"] < 0.2 * depth_training.measure(setting, untrained, test)["rmse"]
    assert found["a1"] > 0.95


@pytest.mark.slow
def test_dpt_finds_the_planes(planes, tmp_path):
    """Well enough after a few steps, between which greys change."""
    train, test = find_splits("nyu", epath.Path(planes), Decoding())
    dpt = DPTHead(1e-3, width=8)
    head = Head(token_greys, dpt.start, dpt.depths)
    setting = make_setting(head=head, mesh=ONE_DEVICE, steps=100, learning_rate=0.02, crop=(8, 16))
    trained = depth_training.fit(setting, train, str(tmp_path), {})
    found = depth_training.measure(setting, trained, test)
    of_the_mean = np.std([test.read_depth(index) for index in range(len(test))])
    assert found["rmse"] < 0.5 * of_the_mean and found["a1"] > 0.6


def test_a_training_that_was_interrupted_goes_on(planes, tmp_path, monkeypatch):
    train, _ = find_splits("nyu", epath.Path(planes), Decoding())
    monkeypatch.setattr(steps, "_SAVE_EVERY", 2)
    whole = depth_training.fit(make_setting(), train, str(tmp_path / "whole"), {})

    class Power(Exception):
        pass

    def cut(self, arrays, write=Kept.write):
        write(self, arrays)
        if arrays["step"] == 4:
            raise Power

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "write", cut)
        with pytest.raises(Power):
            depth_training.fit(make_setting(), train, str(tmp_path / "cut"), {})
    again = depth_training.fit(make_setting(), train, str(tmp_path / "cut"), {})
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


def test_sun_rgbd_is_stretched_capped_and_rotated_back(tmp_path):
    """As the toolbox measures it: numbers by three bits to the right, within the box of NYUd."""
    root = write_sun_rgbd(tmp_path, sizes=((24, 32), (441, 591)))
    numbers = np.full((24, 32), 0b1010_0000_0000_0001, np.uint16)
    numbers[0], numbers[1] = 8 * 1234, 8 * 8100  # 1.234 m and 8.1 m
    Image.fromarray(numbers).save(root / "SUNRGBD/kv1/0/depth/0.png")
    sun = find_sun_rgbd(epath.Path(root), Decoding())
    metres = sun.read_depth(0)
    assert (metres[0] == np.float32(1.234)).all() and (metres[1] == 8).all()
    assert (metres[2:] == 8).all()  # 0b0011_0100_0000_0000 = 13,312 mm
    (batch,) = sun.whole(all_rows(2))
    assert batch["images"].shape == (2, 480, 640, 3)
    assert sun.read_depth(1).shape == (441, 591)


def test_sun_rgbd_is_measured_at_its_own_size(tmp_path):
    """By a head that says 20 m left and 1 m right, of which 8 m and 1 m are taken."""
    root = write_sun_rgbd(tmp_path, sizes=((120, 160), (96, 128)))

    def depths(head, images):
        far = jnp.arange(images.shape[2]) < 320
        return head * jnp.where(far, 20.0, 1.0) * jnp.ones((len(images), 4, 1))

    head = Head(lambda params, images: images, lambda *_: jnp.ones(()), depths)
    sun = find_sun_rgbd(epath.Path(root), Decoding())
    setting = make_setting(head=head, rows=all_rows(8))
    found = depth_training.measure(setting, jnp.ones(()), sun)
    wanted = []
    for index in range(2):
        truth = sun.read_depth(index)[45:471, 41:601]
        # The mirror image has the other half far: 10 m and 1 m, the mean of which is 5.5 m.
        wanted.append(np.sqrt(np.mean((truth - 5.5) ** 2)))
    assert found["rmse"] == pytest.approx(np.mean(wanted), rel=1e-5)


def test_blocks_are_evenly_spaced():
    assert spaced_blocks(12, 4) == (2, 5, 8, 11)
    assert spaced_blocks(24, 4) == (4, 11, 17, 23)
    assert spaced_blocks(40, 4) == (9, 19, 29, 39)
    assert spaced_blocks(12, 1) == (11,)


def test_blocks_of_dpt_are_four_or_the_ends_of_four_stages():
    def geometry(*depths):
        return Geometry(4, 4, (8,) * len(depths), depths, (1,) * len(depths))

    assert chosen_blocks(geometry(12), "dpt", 4) == (2, 5, 8, 11)
    assert chosen_blocks(geometry(2, 2, 6, 2), "dpt", 4) == (1, 3, 9, 11)
    with pytest.raises(UserError, match="--decoder=dpt takes 4 stages, and the model has 3"):
        chosen_blocks(geometry(2, 2, 2), "dpt", 4)
    with pytest.raises(UserError, match="--blocks=1 is not for --decoder=dpt, which takes 4"):
        chosen_blocks(geometry(12), "dpt", 1)


@pytest.mark.parametrize(("arch", "size"), [("vit", (64, 96)), ("swin", (32, 32))])
def test_dpt_sees_the_layers_of_any_backbone(arch, size):
    """Of images of 14 x 18 pixels, 4 x 5 patches of 4, which are halved to 2 x 3; or one window."""
    config = tiny_config(model__depth=4)
    if arch == "swin":
        config = tiny_config(model__arch=arch, data__global_size=(32, 32))
        config.model.update(width=8, stage_depths=(1,) * 4, stage_heads=(1, 1, 2, 2), window=2)
    model = Model(config, "random")
    params = jax.eval_shape(lambda: untrained(model)[1])
    blocks = chosen_blocks(model.geometry, "dpt", 4)
    head = make_head(model, "dpt", blocks, LAYOUTS["nyu"])

    def whole(params):
        features = head.feature_fn(params, jnp.zeros((2, 14, 18, 3), jnp.uint8))
        return head.depths(head.start(jax.random.key(0), features), features), features

    depths, features = jax.eval_shape(whole, params)
    assert depths.shape == (2, *size) and len(features) == 4


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


def test_what_there_is_no_memory_for_is_one_line(planes, tmp_path, monkeypatch, mistake):
    sun = write_sun_rgbd(tmp_path)  # 120 x 160 patches of 4 pixels, of which each sees all
    monkeypatch.setattr(memory, "host_memory", lambda: 2**30)
    flags = ["--layout=nyu", "--crop", "16", "24", "--batch-size=8", "--blocks=1"]
    err = mistake("depth", planes, *flags, f"--sun-rgbd={sun}")
    assert "--batch-size=8 of 480x640 pixels takes " in err


@pytest.mark.slow
def test_the_command_and_what_it_finds_of_other_images(
    planes, workdir, tmp_path, capsys, monkeypatch
):
    small = dataclasses.replace(data.SUN_RGBD, seen=SIZE, box_of=None)
    monkeypatch.setattr(data, "SUN_RGBD", small)
    sun = write_sun_rgbd(tmp_path / "sun")
    flags = [f"--from={workdir}", f"--data={planes}", "--layout=nyu", f"--out={tmp_path}"]
    flags += ["--crop", "16", "24", "--batch-size=8", "--steps=3", "--blocks=1"]
    assert command.main(["depth", *flags, f"--sun-rgbd={sun}"]) == 0
    report = json.loads((tmp_path / "depth.json").read_text())
    assert [(row["data"], row["images"]) for row in report["rows"]] == [("nyu", 5), ("sun_rgbd", 2)]
    assert report["rows"][1]["rmse"] == report["metrics"]["sun_rgbd_rmse"] > 0
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


@pytest.mark.slow
def test_a_program_of_dpt_says_what_the_head_says(planes, tmp_path, capsys, monkeypatch):
    """Of the images that it was trained for, exported for every platform, and in this process."""
    config = tiny_config(model__depth=4)
    state = make_init(config, tiny_plan(config))(jax.random.key(0))
    workdir = save_run(tmp_path / "run", config, state)
    monkeypatch.setattr(depth, "DPTHead", functools.partial(DPTHead, width=8))
    flags = [f"--from={workdir}", f"--data={planes}", "--layout=nyu", f"--out={tmp_path}"]
    flags += ["--crop", "16", "24", "--batch-size=8", "--steps=3", "--decoder=dpt", "--lr=0.01"]
    assert command.main(["depth", *flags]) == 0
    report, target = str(tmp_path / "depth.json"), tmp_path / "depth.stablehlo"
    assert convert.main([f"--from={report}", f"--out={target}", "--to=stablehlo"]) == 0
    program = jax.export.deserialize(bytearray(target.read_bytes()))
    shown = [planes / f"room_nyu_te/rgb_{number}.png" for number in range(2)]
    images = np.stack([np.asarray(Image.open(path)) for path in shown])
    given = np.asarray(program.call(images)["depths"])
    assert given.shape == (2, *SIZE)
    found = list(reopen(report, make_mesh()).pixels.find(images))
    np.testing.assert_allclose(given, found, rtol=1e-4)
    assert np.ptp(given) > 0.01  # the head has learned something


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
        (None, ["--sun-rgbd=nowhere"], "nowhere is no folder"),
        (None, ["--sun-rgbd=."], "SUNRGBD_val_splits.txt is absent: lines of an image and its"),
        (None, ["--sun-rgbd=.", "--layout=kitti"], "--sun-rgbd is for --layout=nyu, not --layout"),
        (None, ["--decoder=dpt"], "--blocks=1 is not for --decoder=dpt, which takes 4"),
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
