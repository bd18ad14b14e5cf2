"""Evaluations by several processes, which give what one gives."""

import json

import numpy as np
import pytest
from processes import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("knn", ("--k=1,7", "--temperature=0.5")),
        ("linear", ("--lr=0.03,3", "--epochs=2", "--blocks=2", "--features=cls", "--scale=0.5")),
        ("logistic", ("--labels=25%", "--l2=1e-2", "--max-steps=20")),
    ],
)
def test_two_processes_find_what_one_finds(workdir, images, tmp_path, task, flags):
    """With 2 x 4 devices and 1 x 8; the noise keeps the classes from being told apart at once."""
    reports = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        arguments = (
            task,
            f"--from={workdir}",
            f"--data=folder:{images}",
            f"--out={folder}",
            f"--cache={folder / 'features'}",
            "--batch-size=16",
            *flags,
        )
        run = Run(count, tmp_path / "compiled", *arguments, module="ibot_jax.evaluate")
        statuses, outs, errors = run.finish()
        assert statuses == [0] * count, errors
        assert not "".join(outs[1:])  # the first process speaks for all
        reports.append(json.loads((folder / f"{task}.json").read_text()))
    one, two = reports
    assert one["rows"] == two["rows"]
    kept = [sorted((tmp_path / name / "features").iterdir()) for name in "12"]
    assert [path.name for path in kept[0]] == [path.name for path in kept[1]]
    for ours, theirs in zip(*kept, strict=True):
        ours, theirs = (np.fromfile(path / "features.f32", np.float32) for path in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_mistake_ends_both(workdir, images, tmp_path):
    arguments = ("knn", f"--from={workdir}", f"--data=folder:{images}", "--test-split=none")
    statuses, _, errors = Run(2, tmp_path, *arguments, module="ibot_jax.evaluate").finish()
    assert statuses == [2, 2]
    assert all(error.count("\n") == 1 and "--test-split=none" in error for error in errors)
