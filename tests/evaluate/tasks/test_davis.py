"""DAVIS with features that tell objects apart, and the whole command with a tiny model."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.davis_data import find_videos
from ibot_jax.evaluate.tasks import davis
from ibot_jax.models.geometry import Geometry

PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0]
HEIGHT, WIDTH, FRAMES, STEP = 64, 128, 6, 4
SQUARES = Geometry(4, 4, widths=(3,), depths=(1,), heads=(1,))


def scene(number):
    """Two squares that move by a patch (4 pixels) a frame: pixels and objects."""
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects[8:24, 8 + STEP * number : 24 + STEP * number] = 1
    objects[36:56, 100 - STEP * number : 120 - STEP * number] = 2
    colors = np.array([[40, 40, 40], [220, 30, 30], [30, 60, 220]], np.uint8)
    return colors[objects], objects


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "DAVIS"
    frames, annotations = (root / kind / "480p/squares" for kind in ("JPEGImages", "Annotations"))
    for folder in (frames, annotations, root / "ImageSets/2017"):
        folder.mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("squares\n")
    for number in range(FRAMES):
        pixels, objects = scene(number)
        Image.fromarray(pixels).save(frames / f"{number:05}.jpg", quality=95, subsampling=0)
        image = Image.fromarray(objects)
        image.putpalette(PALETTE)
        image.save(annotations / f"{number:05}.png")
    return root


def colors_of_patches(params, frame):
    """Features without a place: the mean colour of each patch of 4 x 4 pixels."""
    del params
    height, width, _ = frame.shape
    patches = frame.astype(jnp.float32).reshape(height // 4, 4, width // 4, 4, 3)
    return patches.mean(axis=(1, 3)) - 128


@pytest.mark.parametrize("last_frames", [1, 7])
def test_squares_of_another_colour_are_followed(data, last_frames, tmp_path):
    """Patch for patch: interpolation takes a pixel off each corner, 4 of 256 and of 400."""
    follow = davis.make_follow(
        colors_of_patches,
        None,
        SQUARES,
        last_frames=last_frames,
        radius=4,
        top_k=5,
        temperature=0.1,
    )
    (video,) = find_videos(epath.Path(data), "val")
    scores = davis.measure(follow, video, Decoding(), epath.Path(tmp_path / "predictions"))
    assert len(scores) == 2
    for score in scores:
        assert score["j_mean"] > 98 and score["f_mean"] == 100
        assert score["j_recall"] == score["f_recall"] == 100
        assert abs(score["j_decay"]) < 1
    written = sorted((tmp_path / "predictions/squares").iterdir())
    assert [path.name for path in written] == [f"{number:05}.png" for number in range(FRAMES)]
    for number, path in enumerate(written):
        image = Image.open(path)
        assert image.getpalette()[:9] == PALETTE
        assert (np.asarray(image) == scene(number)[1]).mean() > 0.995


def test_objects_further_away_than_the_radius_are_lost(data):
    """A square that jumps by 4 patches finds only background within 2."""
    frames = [scene(0)[0], scene(4)[0]]
    first = scene(0)[1]
    found = {}
    for radius in (2, 4):
        follow = davis.make_follow(
            colors_of_patches,
            None,
            SQUARES,
            last_frames=7,
            radius=radius,
            top_k=5,
            temperature=0.1,
        )
        (found[radius],) = follow(frames, first)
    truth = scene(4)[1] == 1
    assert (found[4][truth] == 1).mean() > 0.95
    right = truth & ~(first == 1)  # where only the new place is
    assert (found[2][right] == 1).mean() < (found[4][right] == 1).mean() - 0.3


@pytest.mark.slow
def test_the_command_measures_all_videos(data, workdir, tmp_path):
    out = tmp_path / "out"
    flags = [f"--from={workdir}", f"--data={data}", f"--out={out}", "--size=32"]
    assert command.main(["davis", *flags, f"--predictions={tmp_path / 'predictions'}"]) == 0
    report = json.loads((out / "davis.json").read_text())
    assert [row["video"] for row in report["rows"]] == ["squares", "all"]
    metrics = report["metrics"]
    assert metrics["jf_mean"] == (metrics["j_mean"] + metrics["f_mean"]) / 2
    assert report["rows"][-1]["objects"] == 2
    assert metrics["j_mean"] > 60  # a random model keeps colours apart
    assert len(list((tmp_path / "predictions/squares").iterdir())) == FRAMES


@pytest.mark.parametrize(
    ("height", "width", "size", "patch_size", "expected"),
    [
        (480, 854, 480, 16, (480, 832)),  # nearly all of DAVIS
        (480, 910, 480, 8, (480, 896)),
        (854, 480, 480, 16, (832, 480)),
        (480, 854, 480, 14, (476, 826)),  # whole patches
        (720, 720, 480, 16, (480, 448)),
    ],
)
def test_working_sizes_are_those_of_the_original(height, width, size, patch_size, expected):
    geometry = dataclasses.replace(SQUARES, patch_size=patch_size, stride=patch_size)
    assert davis.working_size(height, width, size, geometry) == expected


@pytest.mark.parametrize(
    ("height", "width", "size", "patch_size", "expected"),
    [
        (480, 854, 480, 16, (480, 864)),  # as DINOv3's transform rounds up
        (480, 854, 960, 16, (960, 1712)),
        (480, 854, 1440, 16, (1440, 2576)),
        (480, 854, 840, 14, (840, 1498)),
        (854, 480, 475, 16, (864, 480)),
    ],
)
def test_working_sizes_of_dinov3_are_rounded_up(height, width, size, patch_size, expected):
    geometry = dataclasses.replace(SQUARES, patch_size=patch_size, stride=patch_size)
    assert davis.working_size(height, width, size, geometry, "dinov3") == expected


def test_by_dinov3s_protocol_squares_are_followed_patch_for_patch(data):
    follow = davis.make_follow(
        colors_of_patches,
        None,
        SQUARES,
        last_frames=7,
        radius=6,
        top_k=5,
        temperature=0.2,
        protocol="dinov3",
    )
    (video,) = find_videos(epath.Path(data), "val")
    for score in davis.measure(follow, video, Decoding()):
        assert score["j_mean"] == score["f_mean"] == 100


def remove_annotation(root):
    (root / "Annotations/480p/squares/00002.png").unlink()


def remove_frames(root):
    for number in range(2, FRAMES):
        (root / f"JPEGImages/480p/squares/{number:05}.jpg").unlink()


def shrink_frame(root):
    Image.new("RGB", (60, 30)).save(root / "JPEGImages/480p/squares/00003.jpg")


def empty_first(root):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(
        root / "Annotations/480p/squares/00000.png"
    )


def color_annotation(root):
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "Annotations/480p/squares/00000.png")


def name_another(root):
    (root / "ImageSets/2017/val.txt").write_text("squares\nrings\n")


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (remove_annotation, [], "squares/00002.png is absent, one of 1 annotations that squares"),
        (remove_frames, [], "holds 2 frames; first and last are not measured, so it takes 3"),
        (shrink_frame, [], "00003.jpg has 30x60 pixels, but the first annotation of its video"),
        (empty_first, [], "00000.png shows no object to follow"),
        (color_annotation, [], "00000.png holds colours (RGB), not labels"),
        (name_another, [], "JPEGImages/480p/rings is no folder"),
        (None, ["--split=test"], "ImageSets/2017/test.txt is absent: the names of the videos"),
        (None, ["--size=8"], "--size=8 leaves nothing of frames of 64x128 pixels"),
        (None, ["--radius=0"], "0 is not above 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    data, workdir, tmp_path, capsys, change, flags, message
):
    if change:
        change(data)
    common = [f"--from={workdir}", f"--data={data}", f"--out={tmp_path / 'out'}", "--size=32"]
    assert command.main(["davis", *common, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
