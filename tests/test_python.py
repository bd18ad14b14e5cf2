"""Training from Python: the same run as the command line's, and what is asked of it."""

import inspect
import json

import cli
import jax
import numpy as np
import pytest
from runs import restored

import ibot_jax
from ibot_jax import main, python
from ibot_jax.errors import UserError
from ibot_jax.weights.load import load

CHANGES = dict(word.removeprefix("--config.").split("=", 1) for word in cli.TINY[1:])
CHANGES |= {"duration": "5 steps", "knn.every": "2 steps", "checkpoint.every": "2 steps"}
CHANGES |= {"optim.warmup": "1 steps", "loss.teacher_temp_warmup": "1 steps"}
CHANGES |= {"optim.freeze_last_layer": "1 steps"}


def test_it_is_the_run_of_the_command_line(tmp_path, capsys):
    name = "digits:ibot"
    run = ibot_jax.pretrain(name, str(tmp_path / "python"), CHANGES)
    assert run.complete and "step 5/5" in capsys.readouterr().out
    words = [f"--config.{key}={value}" for key, value in CHANGES.items()]
    assert main.main(["main", f"--config={name}", *words, f"--workdir={tmp_path / 'cli'}"]) == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        restored(tmp_path / "python", 5),
        restored(tmp_path / "cli", 5),
    )
    lines = (tmp_path / "python/metrics.jsonl").read_text().splitlines()
    assert list(run.metrics()) == list(map(json.loads, lines))
    assert [row["step"] for row in run.metrics() if "loss" in row] == [1, 2, 3, 4, 5]
    measured = [row["knn_top1"] for row in run.metrics() if "knn_top1" in row]
    assert run.best()["knn_top1"] == max(measured) and len(measured) == 4
    model, params = run.load()
    expected = restored(tmp_path / "cli", 5)["teacher"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected)
    assert model.facts["step"] == 5


def test_a_config_may_be_changed_and_mistakes_name_it(tmp_path):
    with pytest.raises(UserError, match=r"optim.lrr"):
        ibot_jax.pretrain("digits", str(tmp_path), {"optim.lrr": 1})
    with pytest.raises(UserError, match=r"batch_size=0"):
        ibot_jax.pretrain("digits", str(tmp_path), {"batch_size": 0})
    with pytest.raises(UserError, match=r"there is no file nothing; by name there are"):
        ibot_jax.pretrain("nothing", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_configs_are_listed():
    names = ibot_jax.configs()
    assert {"digits", "vits16", "recommended_vits16", "finetune/vits16"} <= set(names)


@pytest.mark.parametrize(
    ("public", "own"), [(ibot_jax.load, load), (ibot_jax.pretrain, python.pretrain)]
)
def test_what_is_public_takes_what_its_own_module_does(public, own):
    """So that editors know the arguments; types are texts there, for nothing is imported yet."""
    arguments = [
        [(x.name, x.kind, x.default) for x in inspect.signature(function).parameters.values()]
        for function in (public, own)
    ]
    assert arguments[0] == arguments[1]
