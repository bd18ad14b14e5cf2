"""The command on a model card finds the number on the card."""

import json
import re
import shlex

import jax
import pytest
from runs import save_run
from teachers import evaluation_of
from tiny import tiny_config, tiny_plan

from ibot_jax import export
from ibot_jax.data.sources.opening import open_source
from ibot_jax.evaluate import __main__ as command
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import make_init


@pytest.mark.slow
def test_what_knn_found_during_training(images, tmp_path, monkeypatch):
    """With settings that are no defaults, each of which changes what is found."""
    config = tiny_config(
        data__source=f"folder:{images}",
        data__global_size=(12, 16),
        dtype="bfloat16",
        knn__resize=14,
        knn__k=3,
        knn__temperature=0.5,
        knn__max_train_per_class=5,
        knn__max_test_per_class=4,
        knn__batch_size=8,
        probe__max_steps=0,
    )
    state = jax.jit(make_init(config, tiny_plan(config)))(jax.random.key(1))
    evaluation = evaluation_of(config, open_source(f"folder:{images}", "train"))
    weights = {**teacher_params(state), "centers": state.buffers["centers"]}
    found = evaluation(weights, make_mesh())["knn_top1"]
    workdir = save_run(tmp_path / "run", config, state, knn_top1=found)
    export.export(str(workdir), str(tmp_path / "mine.npz"), to="npz")

    card = (tmp_path / "mine.npz.md").read_text()
    assert f"k-NN top-1 {found:.2f} %" in card
    words = shlex.split(re.search(r"again by `(.*)`", card).group(1))
    monkeypatch.chdir(tmp_path)  # where the weights are
    flags = [*words[3:], f"--cache={tmp_path}/cache", "--batch-size=16"]
    assert command.main(flags) == 0
    report = json.loads((tmp_path / "evaluations/mine.npz/knn.json").read_text())
    assert report["metrics"]["top1"] == pytest.approx(found, abs=1e-9)
    export.export(str(workdir), str(tmp_path / "student.npz"), to="npz", weights="student")
    assert "k-NN" not in (tmp_path / "student.npz.md").read_text()  # which was the teacher's
