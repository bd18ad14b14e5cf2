"""Evaluations by several processes, which give what one gives."""

import json

import cli
import jax
import numpy as np
import pytest
from processes import Run
from runs import FINETUNING, restored

from ibot_jax.evaluate import __main__ as command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("knn", ("--k=1,7", "--temperature=0.5")),
        ("linear", ("--lr=0.03,3", "--epochs=2", "--blocks=2", "--features=cls", "--scale=0.5")),
    ],
)
def test_two_processes_find_what_one_finds(evaluate, workdir, images, tmp_path, task, flags):
    """With 2 x 4 devices and 1 x 8."""
    assert evaluate(task, *flags)[0] == 0
    arguments = (
        task,
        f"--from={workdir}",
        f"--data=folder:{images}",
        f"--out={tmp_path / 'two/out'}",
        f"--cache={tmp_path / 'two/cache'}",
        "--batch-size=16",
        *flags,
    )
    run = Run(2, *arguments, module="ibot_jax.evaluate")
    statuses, outs, errors = run.finish()
    assert statuses == [0, 0], errors
    assert outs[1] == ""  # the first process speaks for all
    one, two = (
        json.loads((folder / f"out/{task}.json").read_text())["rows"]
        for folder in (tmp_path, tmp_path / "two")
    )
    assert one == two
    kept = [sorted((folder / "cache").iterdir()) for folder in (tmp_path, tmp_path / "two")]
    assert [path.name for path in kept[0]] == [path.name for path in kept[1]]
    for ours, theirs in zip(*kept, strict=True):
        ours, theirs = (np.fromfile(path / "features.f32", np.float32) for path in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_two_processes_fine_tune_as_one(workdir, images, tmp_path):
    """With 2 x 4 devices and 1 x 8."""
    flags = (
        "finetune",
        f"--from={workdir}",
        f"--data=folder:{images}",
        "--batch-size=16",
        "--config.batch_size=8",
        "--config.duration=1 epochs",  # of 4 steps
        "--config.optim.warmup=1 steps",
        "--config.data.workers=1",
        "--config.log_every=1 steps",
    )
    folders = tmp_path / "one", tmp_path / "two"
    assert command.main([*flags, f"--out={folders[0]}"]) == 0
    arguments = (*flags, f"--out={folders[1]}")
    run = Run(2, *arguments, module="ibot_jax.evaluate")
    statuses, outs, errors = run.finish()
    assert statuses == [0, 0], errors
    assert outs[1] == ""  # the first process speaks for all
    one, two = (json.loads((folder / "finetune.json").read_text())["rows"] for folder in folders)
    assert one == two
    one, two = (cli.rows(folder / "finetune") for folder in folders)
    assert len(one) == 5  # 4 steps and a test
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    one, two = (restored(folder / "finetune", 4, FINETUNING)["params"] for folder in folders)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)
