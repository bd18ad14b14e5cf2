"""A step is told by the config and the images under which it was made, whatever came later."""

import json

import pytest
from etils import epath

from ibot_jax.data.sources.identity import Identity
from ibot_jax.weights.history import config_of_step, data_of_run, read_config, record_start

FIRST, SECOND, THIRD = ({"optim.lr": lr, "knn.k": [20]} for lr in (0.1, 0.2, 0.3))
FEW, MANY = Identity(images=3, names="few"), Identity(images=5, names="many")


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def lr_of(workdir, *steps):
    return [config_of_step(workdir, step)["optim.lr"] for step in steps]


def test_a_config_holds_for_the_steps_after_its_start(workdir):
    assert config_of_step(workdir, 5) is None
    assert record_start(workdir, FIRST, FEW, 0) is None
    assert record_start(workdir, FIRST, FEW, 10) is None  # the same command again
    assert record_start(workdir, SECOND, FEW, 20) is None
    assert lr_of(workdir, 0, 1, 20, 21, 99) == [0.1, 0.1, 0.1, 0.2, 0.2]
    assert read_config(workdir) == SECOND
    assert len(json.loads((workdir / "history.json").read_text())) == 2


def test_a_run_that_goes_back_forgets_what_held_after(workdir):
    record_start(workdir, FIRST, FEW, 0)
    record_start(workdir, SECOND, FEW, 20)
    record_start(workdir, THIRD, FEW, 20)  # the second never saved
    assert lr_of(workdir, 20, 21) == [0.1, 0.3]
    record_start(workdir, SECOND, FEW, 10)  # what came later was damaged
    assert lr_of(workdir, 10, 11, 30) == [0.1, 0.2, 0.2]
    record_start(workdir, THIRD, FEW, 0)
    assert lr_of(workdir, 1, 30) == [0.3, 0.3]


def test_other_images_are_told_by_those_before(workdir):
    record_start(workdir, FIRST, FEW, 0)
    assert record_start(workdir, FIRST, MANY, 10) == FEW
    assert data_of_run(workdir) == MANY
    assert record_start(workdir, FIRST, MANY, 20) is None


def test_runs_of_earlier_versions_have_no_history(workdir):
    (workdir / "config.json").write_text(json.dumps(FIRST))
    assert lr_of(workdir, 1, 100) == [0.1, 0.1]
    assert data_of_run(workdir) is None
    assert record_start(workdir, SECOND, FEW, 10) is None
    assert lr_of(workdir, 10, 11) == [0.1, 0.2]
    assert data_of_run(workdir) == FEW
