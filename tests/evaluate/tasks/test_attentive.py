"""The task `attentive`, from the command line to its report, interrupted or not."""

import json

import numpy as np
import pytest

from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.probes import steps
from ibot_jax.evaluate.probes.kept import Kept

FLAGS = ("--steps=20", "--lr=0.02,0.1", "--weight-decay=0.001", "--scale=0.5", "--batch-size=16")


def report(tmp_path, name):
    return json.loads((tmp_path / name / "attentive.json").read_text())


@pytest.mark.slow
def test_an_interrupted_training_goes_on_exactly(workdir, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, "_SAVE_EVERY", 2)

    def evaluate(name):
        common = f"--from={workdir}", f"--data=folder:{images}", f"--out={tmp_path / name}"
        return command.main(["attentive", *common, *FLAGS])

    assert evaluate("whole") == 0
    write, calls = Kept.write, []

    def interrupted(self, arrays):
        write(self, arrays)
        calls.append(arrays)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "write", interrupted)
    assert evaluate("out") == 130
    monkeypatch.setattr(Kept, "write", write)
    assert evaluate("out") == 0
    whole, resumed = report(tmp_path, "whole"), report(tmp_path, "out")
    assert whole["rows"] == resumed["rows"]
    assert [row["lr"] for row in whole["rows"]] == [0.02, 0.1]
    best = max(whole["rows"], key=lambda row: row["held_out"])  # the first of equal ones
    assert whole["metrics"] == {"top1": best["top1"], "held_out": best["held_out"]}
    kept = [next((tmp_path / name).glob("attentive-*.npz")) for name in ("whole", "out")]
    assert kept[0].name == kept[1].name
    with np.load(kept[0]) as ours, np.load(kept[1]) as theirs:
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert best["top1"] > 60  # of three colours
    np.savez(kept[1], step=20)  # and nothing else
    capsys.readouterr()
    assert evaluate("out") == 2
    assert f"error: {kept[1]} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch-size=40", "--batch-size=40 is more than the 33 images of --train-split=train"),
        ("--weight-decay=0", "argument --weight-decay: '0' is no number from "),
    ],
)
def test_mistakes_are_told_in_one_line(mistake, images, flag, message):
    assert message in mistake("attentive", f"folder:{images}", flag)
