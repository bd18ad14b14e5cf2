"""A run is the same from every kind of source: its losses, and what a killed run becomes."""

import contextlib
import signal

import cli
import jax
import numpy as np
import pytest
from archived import ALL
from PIL import Image
from processes import Run
from runs import restored
from sklearn.datasets import load_digits

from ibot_jax import main

pytestmark = pytest.mark.slow

ARGUMENTS = (
    f"--config={cli.ROOT / 'configs/digits.py:ibot'}",
    *cli.TINY[1:],
    "--config.data.max_per_class=0",
    "--config.knn.every=",
    "--config.log_every=1 steps",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the sources of 96 digits in three classes, by kind, and where their indexes lie."""
    root = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(n_class=3, return_X_y=True)
    for number in range(96):
        path = root / "images" / str(labels[number]) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels[number].reshape(8, 8) * 15).astype(np.uint8)).save(path)
    specs = {}
    for kind, make in ALL.items():
        out = root if kind == "tfds" else root / kind
        out.mkdir(exist_ok=True)
        with contextlib.suppress(pytest.skip.Exception):  # of one whose library is not there
            specs[kind] = make(root / "images", out)
    return specs, root


def train(workdir, root, *arguments):
    arguments = (*ARGUMENTS, f"--config.data.data_dir={root}", f"--workdir={workdir}", *arguments)
    assert main.main(["main", *arguments]) == 0
    return cli.rows(workdir)


@pytest.fixture(scope="module")
def of_folder(made, tmp_path_factory):
    """Returns the metrics of a run on the folder."""
    specs, root = made
    workdir = tmp_path_factory.mktemp("of_folder")
    return train(workdir, root, f"--config.data.source={specs['folder']}")


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "folder"])
def test_losses_are_those_of_the_folder(kind, made, of_folder, tmp_path):
    """Bit for bit, of same images in the same order."""
    specs, root = made
    if kind not in specs:
        pytest.skip("its library is not there")
    assert len(of_folder) == 6
    assert train(tmp_path, root, f"--config.data.source={specs[kind]}") == of_folder


@pytest.mark.parametrize(("count", "steps"), [(1, 30), (2, 20)])  # two take more time for each
def test_a_run_that_is_killed_goes_on_bit_for_bit(count, steps, made, tmp_path):
    """From all kinds at once, mixed: it becomes the run on as many parts of the folder alone."""
    specs, root = made
    arguments = (
        *ARGUMENTS,
        f"--config.data.data_dir={root}",
        f"--config.duration={steps} steps",
        f"--config.data.mixture_epoch={12 * len(specs)}",
        "--config.checkpoint.every=4 steps",
    )

    def started(name, sources):
        mixture = "; ".join(f"1: {source}" for source in sources)
        return Run(
            count, *arguments, f"--config.data.mixture={mixture}", f"--workdir={tmp_path / name}"
        )

    statuses, _, errors = started("folders", [specs["folder"]] * len(specs)).finish()
    assert statuses == [0] * count, errors

    run = started("kinds", specs.values())
    cli.wait_for_step(tmp_path / "kinds", 4, run.processes[0])
    for process in run.processes:
        process.send_signal(signal.SIGKILL)
    assert run.finish()[0] == [-signal.SIGKILL] * count
    statuses, outs, errors = started("kinds", specs.values()).finish()
    assert statuses == [0] * count, errors
    assert "resumed at step " in outs[0] and "the run is complete" not in outs[0]

    jax.tree.map(
        np.testing.assert_array_equal,
        restored(tmp_path / "kinds", steps),
        restored(tmp_path / "folders", steps),
    )
    rows = cli.rows(tmp_path / "kinds")
    assert rows == cli.rows(tmp_path / "folders") and len(rows) == steps
    numbers = range(1, len(specs) + 1)
    for row in rows:
        assert sum(row[f"source_{number}_images"] for number in numbers) == 32
        assert not any(row[f"source_{number}_bad_share"] for number in numbers)
