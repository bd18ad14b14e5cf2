"""A model as a run would leave it, and labelled images that colours tell apart."""

import jax
import numpy as np
import pytest
from PIL import Image
from runs import save_run
from tiny import tiny_config, tiny_plan

from ibot_jax import load
from ibot_jax.evaluate import __main__ as command
from ibot_jax.runs.training import make_init

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 50), "red": (220, 40, 40)}


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """Returns a workdir with one checkpoint, step 3; student and teacher have left the start."""
    config = tiny_config(data__source="folder:none", knn__resize=18, seed=7)
    state = make_init(config, tiny_plan(config))(jax.random.key(config.seed))
    trained = state.replace(
        step=state.step + 3,
        params=jax.tree.map(lambda x: x * 1.5, state.params),
        opt_state=jax.tree.map(lambda x: x * 2, state.opt_state),  # the teacher is in there
    )
    return str(save_run(tmp_path_factory.mktemp("runs") / "mine", config, trained, knn_top1=40.0))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Returns a folder of noisy images, 12 to train and 5 to test for each of three colours."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(color) + rng.integers(-30, 31, (20, 22, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    return str(root)


@pytest.fixture(scope="session")
def dense_evaluation(reference):
    """Returns the recorded arrays of dense evaluations, by name."""
    with np.load(reference("dense_evaluation.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session")
def loaded(workdir):
    """Returns the model of the workdir and its parameters."""
    return load(workdir)


@pytest.fixture
def evaluate(workdir, images, tmp_path, capsys):
    """Returns a function that runs a task as the command line does: status, stdout, stderr."""

    def run(task, *flags):
        defaults = {
            "--from": workdir,
            "--data": f"folder:{images}",
            "--out": str(tmp_path / "out"),
            "--cache": str(tmp_path / "cache"),
            "--batch-size": "16",
        }
        given = {flag.partition("=")[0] for flag in flags}
        flags += tuple(f"{k}={v}" for k, v in defaults.items() if k not in given)
        status = command.main([task, *flags])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def mistake(workdir, tmp_path_factory, capsys):
    """Returns a function that makes sure that a task ends in one line of a mistake, given back."""

    def run(task, data, *flags):
        out = tmp_path_factory.mktemp("results")  # not among the data, of which there is a warning
        common = [f"--from={workdir}", f"--data={data}", f"--out={out / 'out'}"]
        assert command.main([task, *common, *flags]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        return err

    return run
