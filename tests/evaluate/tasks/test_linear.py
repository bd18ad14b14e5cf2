"""The task `linear`, from the command line to its report, interrupted or not."""

import json

import numpy as np
import pytest

from ibot_jax.evaluate.probes import linear_training

FLAGS = ("--epochs=4", "--lr=0.1,3", "--blocks=1,2", "--scale=0.5", "--features=cls,cls+mean")


def report(tmp_path, name="out"):
    return json.loads((tmp_path / name / "linear.json").read_text())


def test_colours_are_told_apart_and_the_sweep_is_reported(evaluate, tmp_path):
    status, out, err = evaluate("linear", "--features=pixels", "--epochs=3", "--lr=0.01,0.1")
    assert (status, err) == (0, "")
    assert report(tmp_path)["metrics"]["top1"] == 100.0
    assert [row["lr"] for row in report(tmp_path)["rows"]] == [0.01, 0.1]
    assert "epoch 3/3: best top-1 100.00 % (pixels-1, lr " in out


@pytest.mark.slow
def test_an_interrupted_training_goes_on_exactly(evaluate, tmp_path, monkeypatch):
    """Stopped while the second epoch's state is written; the first one's stays whole."""
    assert evaluate("linear", *FLAGS, f"--out={tmp_path / 'whole'}")[0] == 0
    write = linear_training._State.write
    calls = []

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, *args)

    monkeypatch.setattr(linear_training._State, "write", interrupted)
    status, out, err = evaluate("linear", *FLAGS)
    assert (status, err) == (130, "interrupted\n") and out.count("epoch ") == 1
    monkeypatch.setattr(linear_training._State, "write", write)
    status, out, _ = evaluate("linear", *FLAGS)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()[:3]] == [
        "epoch 2/4",
        "epoch 3/4",
        "epoch 4/4",
    ]
    whole, resumed = report(tmp_path, "whole"), report(tmp_path)
    assert whole["rows"] == resumed["rows"] and len(whole["rows"]) == 8
    kept = [next((tmp_path / name).glob("linear-*.npz")) for name in ("whole", "out")]
    assert kept[0].name == kept[1].name
    with np.load(kept[0]) as ours, np.load(kept[1]) as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

    # Complete, it is only reported; other settings begin anew.
    status, out, _ = evaluate("linear", *FLAGS)
    assert status == 0 and "epoch " not in out
    status, out, _ = evaluate("linear", *FLAGS, "--epochs=1")
    assert status == 0 and "epoch 1/1" in out

    kept[1].write_bytes(b"damaged")
    status, _, err = evaluate("linear", *FLAGS)
    assert status == 2 and "is damaged" in err and err.endswith("remove it\n")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch-size=40", "--batch-size=40 is more than the 36 images of --train-split=train"),
        ("--features=pixels,cls", "--features=pixels,cls: pixels stand alone"),
        ("--features=edges", "argument --features: 'edges' is none of cls, mean, cls+mean, pixels"),
        ("--blocks=1,3", "--blocks=3 is more than the 2 of the model"),
        ("--flip=2", "argument --flip: '2' is no number from 0 to 1"),
    ],
)
def test_mistakes_are_told_in_one_line(evaluate, flag, message):
    status, out, err = evaluate("linear", flag)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
