"""Curves with made features, a classifier by hand, and the whole command with a tiny model."""

import json
import pathlib
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectnet import write_objectnet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_config

from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks import corruptions, imagenet_variants
from ibot_jax.evaluate.benchmarks.robustness_curves import (
    Point,
    fitting_grids,
    make_curve_fn,
    make_points,
)
from ibot_jax.evaluate.features.cache import Features
from ibot_jax.evaluate.probes.frozen_classifiers import Linear, Neighbours
from ibot_jax.evaluate.probes.softmax_regression import Fit
from ibot_jax.evaluate.tasks.robustness import classified
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.tokens import Attention
from ibot_jax.parallel.mesh import make_mesh


def made_model():
    """A model whose class token is the mean of each patch, and which attends to bright patches."""

    def patches(images):
        batch, height, width, _ = images.shape
        return images.reshape(batch, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4, 5))

    def features(params, images, *, floats):
        assert floats == "normalized"
        return SimpleNamespace(cls=patches(images).reshape(len(images), -1))

    def attention(params, images, *, floats):
        assert floats == "normalized"
        bright = jax.nn.softmax(patches(images), axis=(1, 2))
        return Attention(jnp.stack([bright, bright], axis=1), None, None)

    config = tiny_config()
    return SimpleNamespace(
        config=config, geometry=geometry_of(config.model), features=features, attention=attention
    )


def test_points_of_the_curves():
    ratios, grids = (0.0, 0.25, 1.0), (1, 3)
    model = made_model()
    images = np.random.default_rng(0).integers(60, 250, (5, 13, 12, 3), dtype=np.uint8)
    features = make_curve_fn(model, (13, 12), ratios, grids, seed=3)
    found = np.asarray(jax.jit(features)({}, images))
    points = make_points(ratios, grids)
    assert found.shape == (5, len(points), 9)
    of = {point: found[:, index] for index, point in enumerate(points)}
    data = model.config.data
    normalized = (images[:, :12].astype(np.float32) / 255 - data.mean) / data.std
    whole = normalized.reshape(5, 3, 4, 3, 4, 3).mean(axis=(2, 4, 5)).reshape(5, 9)

    for which in ("random", "salient", "nonsalient"):
        np.testing.assert_allclose(of[Point(f"occlusion_{which}", 0)], whole, atol=1e-5)
        np.testing.assert_array_equal(of[Point(f"occlusion_{which}", 100)], 0)
        quarter = of[Point(f"occlusion_{which}", 25)]
        blank = quarter == 0
        assert (blank.sum(axis=1) == 2).all()  # 0.25 x 9, rounded
        np.testing.assert_allclose(quarter, np.where(blank, 0, whole), atol=1e-5)
        order = np.argsort(whole, axis=1)
        if which != "random":
            expected = order[:, -2:] if which == "salient" else order[:, :2]
            np.testing.assert_array_equal(np.sort(expected), np.argwhere(blank)[:, 1].reshape(5, 2))
    np.testing.assert_allclose(of[Point("shuffling", 1)], whole, atol=1e-5)
    shuffled = of[Point("shuffling", 3)]  # a tile is a patch
    np.testing.assert_allclose(np.sort(shuffled), np.sort(whole), atol=1e-5)
    assert not np.allclose(shuffled, whole, atol=1e-2)


@pytest.mark.parametrize(
    ("size", "patch_size", "expected"),
    [
        ((224, 224), 16, [1, 2, 4, 7, 8, 14]),
        ((32, 32), 4, [1, 2, 4, 8]),
        ((30, 56), 4, [1, 2, 4, 7]),  # 28 x 56 of whole patches
    ],
)
def test_grids_are_chosen_that_fit(size, patch_size, expected):
    geometry = Geometry(patch_size, patch_size, (8,), (1,), (1,))
    assert fitting_grids(SimpleNamespace(geometry=geometry), size) == expected


def test_grids_that_do_not_divide_the_image_are_refused():
    with pytest.raises(UserError, match="--grids: 5x5 tiles do not divide 12x12 pixels"):
        make_curve_fn(made_model(), (13, 12), (0.0,), (2, 5), seed=0)


@pytest.fixture
def classify():
    """Four classes, whose training images lie along the four axes, two each."""
    bank = Features(np.repeat(np.eye(4, dtype=np.float32), 2, 0), np.arange(8) // 2, np.arange(8))
    return Neighbours(bank, 4, k=1, temperature=0.07, mesh=make_mesh())


ALL = np.ones(4, bool)


def test_accuracy_of_each_feature_by_hand(classify):
    eye = np.eye(4, dtype=np.float32)
    features = np.stack([eye[[0, 1, 2, 3]], eye[[0, 0, 0, 0]]], axis=1)  # [B, P, D]
    batches = [
        (features, np.array([0, 1, 2, 0]), np.array([True, True, False, True])),
        (features, np.array([0, 1, 0, 0]), np.array([True, True, True, True])),
    ]
    found = classified(classify, batches, ALL)
    np.testing.assert_array_equal(found.classes[:, 0], [0, 1, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(found.places, [0, 1, 3, 4, 5, 6, 7])
    np.testing.assert_allclose(found.accuracies(np.arange(4)), [100 * 4 / 7, 100 * 5 / 7])
    with pytest.raises(UserError, match="none of the images can be read"):
        classified(classify, [(features, np.zeros(4, int), np.zeros(4, bool))], ALL)


def linear(eye):
    """Class 0 has the largest logit of all, and of the others the largest entry's does."""
    return Linear(Fit(1.0, eye, np.array([9, 0, 0, 0], np.float32), 0, 0.0))


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_classes_without_a_label_are_answered_only_where_all_may(classify, kind):
    """Looks most like class 0, which the folder lacks, and then like class 2, its label 1."""
    if kind == "linear":
        classify = linear(np.eye(4, dtype=np.float32))
    features = np.array([[[0.9, 0, 0.5, 0.1]]], np.float32)
    batches = [(features, np.array([1]), np.array([True]))]
    translation = np.array([-1, 0, 1, -1])
    assert classified(classify, batches, ALL).accuracies(translation) == [0]
    assert classified(classify, batches, translation >= 0).accuracies(translation) == [100]


@pytest.fixture
def flags(workdir, images, tmp_path):
    return [
        f"--from={workdir}",
        f"--data=folder:{images}",
        f"--out={tmp_path / 'out'}",
        f"--cache={tmp_path / 'cache'}",
        "--batch-size=16",
        "--k=3",
    ]


@pytest.mark.slow
def test_the_command_draws_curves_and_measures_folders(flags, images, tmp_path):
    a, nine = tmp_path / "a", tmp_path / "nine"
    for name in ("red", "green"):
        shutil.copytree(f"{images}/test/{name}", a / name)
    for name in ("mixed_same", "mixed_rand"):
        shutil.copytree(f"{images}/test", nine / name / "val")
    shutil.rmtree(nine / "mixed_rand/val/red")  # whose images are now taken for green ones
    shutil.copytree(f"{images}/test/green", nine / "mixed_rand/val/red")
    flags += ["--drop-ratios=0,0.5,1", "--grids=1,4", f"--imagenet-a={a}", f"--imagenet-9={nine}"]
    assert command.main(["robustness", *flags]) == 0
    report = json.loads((tmp_path / "out/robustness.json").read_text())
    top1 = {(row["test"], row["setting"]): row["top1"] for row in report["rows"]}
    for which in ("random", "salient", "nonsalient"):
        curve = [top1[f"occlusion_{which}", x] for x in (0, 50, 100)]
        assert curve[0] == 100  # colours tell these images apart
        assert curve[2] == pytest.approx(100 / 3)  # blank images are all alike
        assert report["metrics"][f"occlusion_{which}"] == pytest.approx(np.mean(curve))
    assert top1["shuffling", 1] == 100
    assert top1["imagenet_a", "2 classes"] == report["metrics"]["imagenet_a"] == 100
    assert top1["imagenet_9", "mixed_same"] == 100
    assert report["metrics"]["imagenet_9_gap"] == pytest.approx(100 / 3)

    events = EventAccumulator(str(next((tmp_path / "out/tensorboard").iterdir())))
    events.Reload()
    tag = "robustness/curves/occlusion_random"
    assert [event.step for event in events.Scalars(tag)] == [0, 50, 100]


@pytest.mark.slow
def test_mce_is_of_all_severities(flags, images, tmp_path, monkeypatch):
    """Of one corruption instead of all. At severity 5 all of red, a third, is taken for blue."""
    for module in (corruptions, imagenet_variants):
        monkeypatch.setattr(module, "ALEXNET_ERRORS", {"fog": 81.9324})
    (tmp_path / "fog").mkdir()
    for severity in range(1, 5):
        (tmp_path / "fog" / str(severity)).symlink_to(f"{images}/test")
    (tmp_path / "fog/5").mkdir()
    for name, shown in (("red", "blue"), ("green", "green"), ("blue", "blue")):
        (tmp_path / "fog/5" / name).symlink_to(f"{images}/test/{shown}")
    assert command.main(["robustness", *flags, "--no-curves", f"--imagenet-c={tmp_path}"]) == 0
    report = json.loads((tmp_path / "out/robustness.json").read_text())
    (row,) = report["rows"]
    assert (row["test"], row["setting"]) == ("imagenet_c", "fog")
    assert row["top1"] == pytest.approx(100 - 100 / 3 / 5)
    assert report["metrics"] == {"imagenet_c_mce": pytest.approx(100 * (100 / 3 / 5) / 81.9324)}


@pytest.mark.slow
def test_a_linear_classifier_meets_images_of_other_kinds(flags, images, tmp_path):
    """Of V2, a third is of another colour; ReaL calls the green ones blue, and has no red ones."""
    v2, objects = tmp_path / "v2", write_objectnet(tmp_path / "objectnet")
    for number, shown in enumerate(("blue", "green", "blue")):
        shutil.copytree(f"{images}/test/{shown}", v2 / str(number))
    data = tmp_path / "data"
    shutil.copytree(f"{images}/train", data / "train")
    for label, name in enumerate(("blue", "green", "red")):
        (data / "val" / name).mkdir(parents=True)
        for number, path in enumerate(sorted((pathlib.Path(images) / "test" / name).iterdir())):
            own = f"ILSVRC2012_val_{5 * label + number + 1:08}.JPEG"
            shutil.copy(path, data / "val" / name / own)
    (tmp_path / "real.json").write_text(json.dumps([[0, 2]] * 5 + [[0]] * 5 + [[]] * 5))
    flags = [flag for flag in flags if not flag.startswith("--data")]
    flags += [f"--data=folder:{data}", "--no-curves", "--classifier=linear", "--max-steps=30"]
    flags += [f"--imagenet-v2={v2}", f"--objectnet={objects}", "--l2=1e-4"]
    flags += [f"--imagenet-r={images}/test", f"--imagenet-real={tmp_path / 'real.json'}"]
    assert command.main(["robustness", *flags]) == 0
    found = json.loads((tmp_path / "out/robustness.json").read_text())
    assert found["metrics"] == {
        "imagenet_r": 100,
        "imagenet_v2": pytest.approx(200 / 3),
        "objectnet": 100,
        "imagenet_real": 50,
    }
    settings = {row["test"]: row["setting"] for row in found["rows"]}
    assert settings["imagenet_real"] == "10 images" and settings["objectnet"] == "3 classes"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--no-curves"], "--no-curves leaves nothing to measure"),
        (["--grids=3"], "--grids: 3x3 tiles do not divide 16x16 pixels"),
        (["--drop-ratios=0,2"], "'2' is no number from 0 to 1"),
        (["--k=99"], "--k=99 is larger than the 36 training images"),
        (["--imagenet-a=nowhere"], "--imagenet-a: "),
        (["--imagenet-c=nowhere"], "nowhere is no folder"),
        (["--imagenet-v2=nowhere"], "--imagenet-v2: "),
        (["--objectnet=nowhere"], "nowhere is no folder"),
        (["--imagenet-real=nowhere"], "real.json is to be had at github.com/google-research"),
        (["--data=digits", "--imagenet-a=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_2(flags, capsys, more, message):
    assert command.main(["robustness", *flags, *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
