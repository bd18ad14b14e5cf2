"""The task `knn`, from the command line to its report."""

import json

import numpy as np
import pytest


def test_colours_are_told_apart_and_reported(evaluate, tmp_path):
    status, out, err = evaluate("knn", "--k=1,5", "--temperature=0.07,1")
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out/knn.json").read_text())
    assert report["metrics"] == {"top1": 100.0, "top5": 100.0}
    assert [(row["k"], row["temperature"]) for row in report["rows"]] == [
        (1, 0.07),
        (1, 1.0),
        (5, 0.07),
        (5, 1.0),
    ]
    assert report["settings"]["weights"] == "teacher" and report["settings"]["step"] == 3
    assert "temperature" in out and "100.00" in out
    assert list((tmp_path / "out/tensorboard").glob("knn-*/events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--k=37",
            "--k=37 is larger than the 36 images of --train-split=train that vote; lower it",
        ),
        ("--k=0", "argument --k: 0 is not above 0; see --help"),
        ("--k=1,x", "argument --k: 'x' is no whole number from 0 on; see --help"),
        *(
            (
                f"--temperature={value}",
                f"argument --temperature: '{value}' is no number from 1e-12 to 1e+12; see --help",
            )
            for value in ("0", "1e-300", "1e300", "nan", "inf", "-1")
        ),
        (
            "--k=1000000000000",
            "argument --k: 1000000000000 is above 1000000000, the most that makes sense; see "
            "--help",
        ),
    ],
)
def test_settings_that_make_no_sense_are_told_in_one_line(evaluate, flag, message):
    assert evaluate("knn", flag) == (2, "", f"error: {message}\n")


def test_images_that_memory_has_no_room_for_are_told(evaluate):
    status, _, err = evaluate("knn", "--size", "80000")
    assert status == 2
    assert err.startswith("error: --size=80000 80000 with --resize=")
    assert "of memory at the least, and there are " in err and err.count("\n") == 1


def test_an_image_that_is_searched_for_among_itself(evaluate, images, tmp_path):
    """Warned of and counted; left out it does not vote, as by hand with features from the disk."""
    status, out, err = evaluate("knn", "--k=1,3", "--test-split=train", "--features=pixels")
    assert status == 0
    assert "warning: 36 of the 36 images of --test-split=train are among those of" in err
    assert "or --leave-one-out" in err
    assert "36 of the test images are training images, too" in out
    report = json.loads((tmp_path / "out/knn.json").read_text())
    assert report["metrics"]["shared_images"] == 36 and report["rows"][0]["top1"] == 100.0

    flags = ("--k=1,3", "--test-split=train", "--features=pixels", "--leave-one-out")
    status, _, err = evaluate("knn", *flags)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out/knn.json").read_text())
    assert "shared_images" not in report["metrics"]
    (folder,) = (tmp_path / "cache").iterdir()
    pixels = np.fromfile(folder / "features.f32", np.float32).reshape(36, -1)
    labels = np.load(folder / "labels.npy")
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T
    np.fill_diagonal(similarity, -np.inf)
    top1 = 100 * np.mean(labels[similarity.argmax(axis=1)] == labels)
    assert report["rows"][0]["top1"] == pytest.approx(top1)
    status, _, err = evaluate("knn", *flags[1:], "--k=36")
    assert status == 2 and "--k=36 is larger than the 35 images of --train-split=train that" in err


@pytest.mark.parametrize("task", ["logistic", "linear"])
def test_the_other_classifiers_warn_too(evaluate, tmp_path, task):
    flags = ["--epochs=1", "--lr=1"] if task == "linear" else ["--l2=0.1"]
    status, _, err = evaluate(task, "--test-split=train", "--max-test-per-class=2", *flags)
    assert status == 0
    assert "warning: 6 of the 6 images of --test-split=train are among" in err
    assert "leave-one-out" not in err
    report = json.loads((tmp_path / f"out/{task}.json").read_text())
    assert report["metrics"]["shared_images"] == 6
