"""The task `knn`, from the command line to its report."""

import json

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
        ("--k=37", "--k=37 is larger than the 36 images of --train-split=train; lower it"),
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
