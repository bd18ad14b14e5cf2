"""A method that keeps nothing from step to step, and compares no prototypes, is a file, too."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import restored
from tiny import tiny_config

import ibot_jax
from ibot_jax import export
from ibot_jax.methods.method import Modules, Targets
from ibot_jax.methods.metrics import METRICS, Metric
from ibot_jax.methods.views import by_view, student_tokens, tokens_of
from ibot_jax.runs.pretrain import pretrain

FEW = dict.fromkeys(("optim__warmup", "optim__freeze_last_layer", "log_every"), "1 steps")
DIGITS = dict(data__source="digits", data__channels=1, data__mean=(0.3,), data__std=(0.4,))
SHORT = (
    FEW
    | DIGITS
    | dict(
        method="regression",
        batch_size=32,
        loss__teacher_temp_warmup="1 steps",
        data__max_per_class=8,
        data__workers=1,
        data__augment="host",
        data__gray=0.0,
        data__solarize=(0.0, 0.0, 0.0),
        knn__every="1 steps",
        knn__resize=16,
        knn__max_train_per_class=8,
        knn__max_test_per_class=4,
        checkpoint__every="1 steps",
    )
)


@dataclasses.dataclass(frozen=True)
class Regression:
    """The student's features follow the teacher's, of the same views."""

    modules: Modules
    loss_weights: dict
    schedules: dict
    buffers: dict

    def targets(self, networks, views, now):
        backbone = self.modules.teacher.backbone
        tokens = tokens_of(backbone, networks.teacher, views.global_views)
        return Targets(by_view(tokens.cls, views.global_views), None, {})

    def terms(self, student, views, targets):
        _, features = student_tokens(self.modules.student.backbone, student, views)
        features = features[:, : targets.rows.shape[1]]
        return {"feature_loss": jnp.square(features - targets.rows).mean()}

    def after(self, networks, means):
        return {}


def build(config, modules, plan):
    return Regression(modules, loss_weights={"feature_loss": 1.0}, schedules={}, buffers={})


@pytest.mark.slow
def test_it_is_saved_logged_evaluated_resumed_exported_and_started_from(
    tmp_path, monkeypatch, capsys
):
    module = types.SimpleNamespace(build=build)
    monkeypatch.setitem(sys.modules, "ibot_jax.methods.regression", module)
    monkeypatch.setitem(METRICS, "feature_loss", Metric("", "of class tokens", is_loss=True))
    run, other = tmp_path / "run", tmp_path / "other"
    config = tiny_config(**SHORT, duration="2 steps")
    assert pretrain(config, str(run)) == 0
    longer = tiny_config(**SHORT, duration="3 steps")
    assert pretrain(longer, str(run), allow_config_change=True) == 0
    said = capsys.readouterr()
    assert "resumed at step 2" in said.out and "(feature " in said.out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if row.get("feature_loss", 0) > 0} == {1, 2, 3}
    assert all(0 <= row["knn_top1"] <= 100 for row in rows if "knn_top1" in row)
    assert {row["step"] for row in rows if "feature_rank" in row} >= {1, 2, 3}

    parts = ("student", "teacher", "optimizer")
    assert {path.name for path in (run / "checkpoints/3").iterdir() if path.is_dir()} == {
        *parts,
        "metrics",
    }
    exported = str(tmp_path / "model.npz")
    assert export.main([f"--from={run}", "--to=npz", f"--out={exported}", "--head"]) == 0
    _, params = ibot_jax.load(exported, head=True)
    teacher = restored(run, 3, parts)["teacher"]
    jax.tree.map(np.testing.assert_array_equal, params, teacher)

    (run / "checkpoints/3/teacher/_METADATA").unlink()
    assert pretrain(longer, str(run)) == 0
    assert (run / "checkpoints/3.damaged").is_dir()
    started = tiny_config(**SHORT, duration="2 steps", init_from=str(run))
    assert pretrain(started, str(other)) == 0
    assert f"weights of {run}" in capsys.readouterr().out
