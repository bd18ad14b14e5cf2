"""Loggers besides the files: what they are told, which run of theirs it is, and what may fail."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request

import pytest
from etils import epath
from PIL import Image

from ibot_jax.errors import UserError
from ibot_jax.runs.reporting.loggers import Loggers

CONFIG = {"batch_size": 8, "data.source": "digits"}


class Recorder(types.ModuleType):
    """A package that takes all three for: it notes what it is told."""

    def __init__(self, name):
        super().__init__(name)
        self.told, self.fails = [], False

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            if self.fails:
                raise ConnectionError("gone\nfor good")
            self.told.append((name, args, kwargs))
            return self

        return call


@pytest.fixture
def package(monkeypatch):
    """Returns a function from a name to the package that stands for it."""

    def stand_in(name):
        module = Recorder(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return stand_in


@pytest.fixture
def warnings():
    return []


def opened(tmp_path, names, warnings):
    warn = lambda sign, text: warnings.append((sign, text))  # noqa: E731
    return Loggers(names, epath.Path(tmp_path), CONFIG, warn)


def test_wandb_is_told_steps_and_goes_on_with_its_run(tmp_path, package, warnings, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb = package("wandb")
    for _ in range(2):
        loggers = opened(tmp_path, "wandb", warnings)
        loggers.log(5, {"loss": 2.5, "lr": math.nan})
        loggers.close()
    begins = [kwargs for name, _, kwargs in wandb.told if name == "init"]
    assert begins[0] == begins[1] and begins[0]["project"] == "mine"
    assert begins[0]["config"] == CONFIG and begins[0]["name"] == tmp_path.name
    assert begins[0]["id"] == json.loads((tmp_path / "log_to.json").read_text())["wandb"]
    assert [args for name, args, _ in wandb.told if name == "log"] == [
        ({"step": 5, "loss": 2.5},)
    ] * 2
    assert [name for name, *_ in wandb.told].count("finish") == 2 and warnings == []


def test_trackio_is_told_steps(tmp_path, package, warnings):
    trackio = package("trackio")
    loggers = opened(tmp_path, "trackio", warnings)
    loggers.log(7, {"loss": 2.5})
    loggers.close()
    ((_, _, begin), (name, args, kwargs), (last, *_)) = trackio.told
    assert begin["project"] == "ibot_jax" and begin["config"] == CONFIG
    assert (name, args, kwargs, last) == ("log", ({"loss": 2.5},), {"step": 7}, "finish")


def test_each_is_shown_pictures_and_told_what_the_run_came_to(tmp_path, package, warnings):
    wandb, trackio = package("wandb"), package("trackio")
    picture = Image.new("RGB", (4, 3))
    loggers = opened(tmp_path, "wandb trackio", warnings)
    loggers.picture(5, "views", picture)
    loggers.card("# mine")
    loggers.close()
    assert warnings == [] and wandb.notes == "# mine"
    assert ("log", ({"step": 5, "views": wandb},), {}) in wandb.told  # as their Image gives it
    assert ("log", ({"views": trackio},), {"step": 5}) in trackio.told
    assert ("Image", (picture,), {}) in wandb.told and ("Image", (picture,), {}) in trackio.told
    assert ("Markdown", ("# mine",), {}) in trackio.told


def test_one_that_fails_is_named_once_and_the_others_go_on(tmp_path, package, warnings):
    wandb, trackio = package("wandb"), package("trackio")
    loggers = opened(tmp_path, "wandb trackio", warnings)
    wandb.fails = True
    for step in (1, 2):
        loggers.log(step, {"loss": 1.0})
    loggers.close()
    ((sign, text),) = warnings
    assert sign == "log_to wandb"
    assert text == "wandb takes nothing any more (gone for good); metrics.jsonl has all"
    assert [name for name, *_ in trackio.told] == ["init", "log", "log", "finish"]


def test_one_that_cannot_be_opened_is_a_mistake(tmp_path, package, warnings, monkeypatch):
    package("wandb").fails = True
    with pytest.raises(
        UserError, match=r"log_to='wandb': wandb cannot be opened \(gone for good\)"
    ):
        opened(tmp_path, "wandb", warnings)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        UserError, match=r"needs the package mlflow .*pip install 'ibot-jax\[mlflow\]'"
    ):
        opened(tmp_path, "mlflow", warnings)
    assert not list(tmp_path.iterdir())


def test_without_any_nothing_is_written(tmp_path, warnings):
    loggers = opened(tmp_path, "", warnings)
    loggers.log(1, {"loss": 1.0})
    loggers.close()
    assert not list(tmp_path.iterdir()) and warnings == []


@pytest.fixture(params=["files", "server"])
def mlflow_store(request, tmp_path, monkeypatch):
    """Sets where MLflow keeps what it is told: a folder, or a server on this host."""
    mlflow = pytest.importorskip("mlflow")
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
        yield mlflow
        return
    pytest.importorskip("flask", reason="mlflow-skinny has no server")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    database = f"sqlite:///{tmp_path / 'store.db'}"
    options = f"--backend-store-uri={database}", "--workers=1", f"--port={port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options], cwd=tmp_path, start_new_session=True
    )
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/health").close()
                break
            time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{port}")
        yield mlflow
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def test_mlflow_has_metrics_at_their_steps_a_picture_and_the_card(tmp_path, warnings, mlflow_store):
    (tmp_path / "run").mkdir()
    for step in (3, 4):
        loggers = opened(tmp_path / "run", "mlflow", warnings)
        loggers.log(step, {"loss": 1.0 / step})
        loggers.picture(step, "views", Image.new("RGB", (4, 3)))
        loggers.card("# mine")
        loggers.close()
    assert warnings == []
    client = mlflow_store.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "ibot_jax"]
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(3, 1 / 3), (4, 1 / 4)]
    assert run.data.params == {key: str(value) for key, value in CONFIG.items()}
    assert run.data.tags["mlflow.note.content"] == "# mine"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"views_3.png", "views_4.png"}
