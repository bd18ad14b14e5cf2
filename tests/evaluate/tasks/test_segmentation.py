"""Segmentation by published protocols: planted classes are found, and the whole command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import COLORS, IGNORED, SHAPE, write_voc

from ibot_jax import predict
from ibot_jax.convert import __main__ as convert
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.segmentation_data import find_splits
from ibot_jax.evaluate.benchmarks.segmentation_pictures import colors
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes import segmentation_training, steps
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.segmentation_training import Sizes
from ibot_jax.evaluate.probes.windows import Windows, decide
from ibot_jax.evaluate.tasks.segmentation import PROTOCOLS, make_patch_fn
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows

FILL = np.full(3, 128, np.uint8)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("VOC2012"))


def patch_colors(params, images):
    """Features without a place: the mean colour of each patch of 4 x 4 pixels, and its square."""
    batch, height, width, channels = images.shape
    patches = images.astype(jnp.float32).reshape(batch, height // 4, 4, width // 4, 4, channels)
    mean = params * patches.mean(axis=(2, 4)) / 128 - 1
    return jnp.concatenate([mean, mean**2], axis=-1)


def make_setting(**overrides):
    values = dict(
        patch_fn=patch_colors,
        params=jnp.float32(1),
        mesh=make_mesh(),
        crops=Crops(32, (1.0, 1.5), 32, FILL, Decoding(), all_rows(8)),
        steps=60,
        warmup=10,
        learning_rate=0.2,
        schedule="linear",
        weight_decay=1e-4,
        clip=0.0,
        dropout=0.0,
        batch_norm=True,
        seed=0,
    )
    return segmentation_training.Setting(**values | overrides)


@pytest.fixture(scope="module")
def trained(voc, tmp_path_factory):
    """Returns the setting, what was trained, and the images to test on."""
    train, test = find_splits("voc", epath.Path(voc))
    setting = make_setting()
    out = str(tmp_path_factory.mktemp("out"))
    return setting, segmentation_training.fit(setting, train, out, {}), test


@pytest.mark.parametrize("sizes", [Sizes((1.0,), False, 16), Sizes((1.0, 1.5), True, 16)])
def test_planted_classes_are_found(trained, sizes):
    """By their colour, whatever becomes of it; up to pixels at the borders of patches."""
    setting, head, test = trained
    shown = []
    counts = segmentation_training.measure(
        segmentation_training.make_logits_fn(setting),
        (head, setting.params),
        test,
        setting.crops,
        sizes,
        setting.mesh,
        lambda *found: shown.append(found),
    )
    assert counts.sum() == 6 * (SHAPE[0] - 2) * SHAPE[1]  # the ignored rows do not count
    scores = mean_iou.scores(counts)
    assert scores["miou"] > 85 and scores["pixel_accuracy"] > 95
    assert [number for number, _ in shown] == list(range(6))
    assert all(found.shape == SHAPE for _, found in shown)


def test_a_training_that_was_interrupted_goes_on(voc, tmp_path, monkeypatch):
    train, _ = find_splits("voc", epath.Path(voc))
    monkeypatch.setattr(steps, "_SAVE_EVERY", 2)
    setting = make_setting(steps=5, dropout=0.2, clip=1.0, schedule="cosine")
    whole = segmentation_training.fit(setting, train, str(tmp_path / "whole"), {})

    class Power(Exception):
        pass

    def cut(self, arrays, write=Kept.write):
        write(self, arrays)
        if arrays["step"] == 2:
            raise Power

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "write", cut)
        with pytest.raises(Power):
            segmentation_training.fit(setting, train, str(tmp_path / "cut"), {})
    again = segmentation_training.fit(setting, train, str(tmp_path / "cut"), {})
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert whole[1].mean.any()  # what BatchNorm has seen is part of it


def test_blocks_of_the_protocols():
    wanted = {"dinov2": [12], "dinov2-ms": [9, 10, 11, 12], "dinov3": [12], "ibot": [4, 6, 8, 12]}
    assert {name: list(x.blocks(12)) for name, x in PROTOCOLS.items()} == wanted
    assert list(PROTOCOLS["ibot"].blocks(24)) == [8, 12, 16, 24]


def test_features_are_patch_tokens_of_blocks_with_and_without_the_last_norm(loaded):
    model, params = loaded
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for normalized in (True, False):
        found = make_patch_fn(model, (0, 1), normalized=normalized)(params, jnp.asarray(images))
        layers = model.layers(params, images, (0, 1), normalized=normalized)
        want = np.concatenate([layer.patches for layer in layers], axis=-1)
        np.testing.assert_allclose(found, want, atol=1e-5)


TINY = ["--size=32", "--crop=24", "--stride=12", "--ratios=1,1.5", "--steps=2", "--batch-size=8"]


@pytest.fixture(scope="module")
def evaluated(voc, workdir, tmp_path_factory):
    """Returns the flags of a command, and where it has written."""
    out = tmp_path_factory.mktemp("evaluated")
    flags = [f"--from={workdir}", f"--data={voc}", "--layout=voc", f"--out={out}", *TINY]
    assert command.main(["segmentation", *flags, "--protocol=dinov3", "--pictures=2"]) == 0
    return flags, out


@pytest.mark.slow
def test_the_command(voc, evaluated):
    _, out = evaluated
    report = json.loads((out / "segmentation.json").read_text())
    settings, metrics = report["settings"], report["metrics"]
    assert settings["dropout"] == 0.1 and settings["blocks"] == [2] and settings["steps"] == 2
    assert 0 < metrics["miou"] <= metrics["mean_accuracy"] <= 100
    assert report["rows"][0]["images"] == 6
    pictures = sorted((out / "segmentation").glob("*.png"))
    assert [path.name for path in pictures] == ["2007_val0.png", "2007_val1.png"]
    sheet = np.asarray(Image.open(pictures[0]))
    height, width = SHAPE
    assert sheet.shape == (height, 3 * width, 3)
    image, label, found = np.split(sheet, 3, axis=1)
    truth = np.asarray(Image.open(voc / "SegmentationClass/2007_val0.png"))
    np.testing.assert_array_equal(label, colors(21)[truth])
    assert (label[truth == IGNORED] == 0).all()
    assert np.abs(image.astype(int) - COLORS[np.where(truth == IGNORED, 0, truth)])[2:].mean() < 9
    assert {tuple(c) for c in found.reshape(-1, 3)} <= {tuple(c) for c in colors(21)[:21]}


@pytest.mark.slow
def test_masks_and_a_program_are_what_the_task_found(voc, evaluated, tmp_path, capsys):
    """Of a folder by the report; and the program's windows, joined."""
    _, out = evaluated
    report = f"--from={out / 'segmentation.json'}"
    flags = f"--data={voc / 'JPEGImages'}", f"--out={tmp_path / 'found'}", "--pictures=7"
    assert predict.main([report, *flags]) == 0
    assert "17 images: " in (told := capsys.readouterr().out)
    assert "masks (the number of the class, 0 to 20 of voc)" in told
    assert len(list((tmp_path / "found/masks").iterdir())) == 17
    assert len(list((tmp_path / "found/pictures").iterdir())) == 7
    mask = Image.open(tmp_path / "found/masks/2007_val0.png")
    own = np.asarray(Image.open(out / "segmentation/2007_val0.png"))
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), own[:, 2 * SHAPE[1] :])
    assert predict.main([report, *flags]) == 2 and "exists" in capsys.readouterr().err

    target = tmp_path / "segmentation.stablehlo"
    assert convert.main([report, f"--out={target}", "--to=stablehlo"]) == 0
    assert "takes 24 x 24 pixels, one window" in capsys.readouterr().out
    program = jax.export.deserialize(bytearray(target.read_bytes()))
    windows = Windows(SHAPE, 24, 12)
    pixels = np.asarray(Image.open(voc / "JPEGImages/2007_val0.jpg"))
    given = program.call(np.stack(windows.cut(pixels)))
    cells = list(np.asarray(given["logits"]))
    joined = decide([windows.join(cells, SHAPE, mirrored=False)])
    np.testing.assert_array_equal(joined, np.asarray(mask))
    alone = decide([Windows((24, 24), 24, 12).join(cells[:1], (24, 24), mirrored=False)])
    np.testing.assert_array_equal(given["classes"][0], alone)
    card = (tmp_path / "segmentation.stablehlo.md").read_text()
    assert "- segmentation: miou" in card and "the program takes 24 x 24 pixels" in card


@pytest.mark.slow
def test_another_test_takes_the_head_that_is_there(evaluated, tmp_path, capsys):
    flags, out = evaluated
    kept = next(out.glob("segmentation-*.npz"))
    before, content = kept.stat().st_mtime_ns, kept.read_bytes()
    again = ["segmentation", *flags, "--protocol=dinov3", "--scales=0.5,1", "--mirrored=on"]
    assert command.main(again) == 0
    assert kept.stat().st_mtime_ns == before and len(list(out.glob("segmentation-*.npz"))) == 1
    capsys.readouterr()
    report = f"--from={out / 'segmentation.json'}", f"--data={tmp_path}", f"--out={tmp_path / 'x'}"
    for damage, message in (
        (lambda: kept.write_bytes(content[:-100]), "is damaged"),
        (kept.unlink, "is absent, or its training not at its end (step 0 of 2)"),
    ):
        damage()
        assert predict.main(report) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    kept.write_bytes(content)


def ignore_all(root):
    for path in (root / "SegmentationClass").glob("*val*"):
        Image.fromarray(np.full(SHAPE, IGNORED, np.uint8)).save(path)


def odd_label(root):
    path = next((root / "SegmentationClass").glob("*train*"))
    Image.fromarray(np.full(SHAPE, 21, np.uint8)).save(path)


def remove_label(root):
    (root / "SegmentationClass/2007_val3.png").unlink()


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (remove_label, [], "2007_val3.png is absent, one of 1 that "),
        (odd_label, [], "holds the value 21, which is none of the 21 classes from 0 to 20"),
        (ignore_all, [], "SegmentationClass has no annotated pixel"),
        (None, ["--layout=cityscapes"], "gtFine_labelIds.png (www.cityscapes-dataset.com)"),
        (None, ["--blocks=1,3"], "--blocks=1,3 is not within the 2 blocks of the model"),
        (None, ["--protocol=dinov2-ms"], "--blocks=-1,0,1,2 is not within the 2 blocks"),
        (None, ["--stride=25"], "--stride=25 is more than --crop=24: windows would leave gaps"),
        (None, ["--batch-size=16"], "--batch-size=16 is more than the 11 training images"),
        (None, ["--mirrored=maybe"], "'maybe' is none of on, off"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, mistake, change, flags, message):
    root = write_voc(tmp_path / "VOC2012")
    if change:
        change(root)
    assert message in mistake("segmentation", root, "--layout=voc", *TINY, "--steps=1", *flags)
