"""Loggers that a run tells its metrics besides its own files: `log_to`.

    WORKDIR/log_to.json    which run of theirs it is, so that a resumed one goes on there

Each takes its project and address from its own environment variables (WANDB_PROJECT, WANDB_MODE,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, TRACKIO_PROJECT), and else the project "ibot_jax". A
logger that fails is named by a warning and told no more: a run does not end for it.
"""

import importlib
import math
import os
import time
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Protocol

from etils import epath
from PIL import Image

from ibot_jax.config.flat import Flat
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.json_files import parse_object
from ibot_jax.files.paths import reason_of

PROJECT = "ibot_jax"
_FILE = "log_to.json"
_MOST_PARAMETERS = 100  # that MLflow takes at a time
_LONGEST = 500  # characters of one


class Logger(Protocol):
    """Where metrics go."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the metrics of a step, or of an evaluation at it; all are finite."""

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Takes a picture of a step."""

    def card(self, text: str) -> None:
        """Takes what the run was and came to, in Markdown."""

    def close(self) -> None:
        """Sends what is left."""


class Loggers:
    """All loggers of a run, none of which may end it."""

    def __init__(
        self, names: str, workdir: epath.Path, config: Flat, warn: Callable[[str, str], None]
    ):
        """Opens them.

        Args:
          names: of `OPENERS`, separated by spaces.
          workdir: of the run, whose name is theirs.
          config: of the run.
          warn: takes the name of what has failed, and a line that says so.

        Raises:
          UserError: if a package is not there, or a logger cannot be opened.
        """
        self._warn, self._open = warn, {}
        chosen = names.split()
        if not chosen:
            return
        file = workdir / _FILE
        known = parse_object(file.read_text()) if file.exists() else {}
        for name in chosen:
            module = _module(name)
            run = known.setdefault(name, uuid.uuid4().hex[:12])
            try:
                self._open[name] = OPENERS[name](module, run, workdir, config)
            except Exception as error:  # of a network, an account, a disk
                raise UserError(
                    f"log_to={names!r}: {name} cannot be opened ({reason_of(error)}); mend it, or "
                    "leave it out"
                ) from error
        write_json(file, known)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Hands metrics over; those that are not finite are left out."""
        finite = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        self._each(lambda logger: logger.log(step, finite))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Hands a picture over."""
        self._each(lambda logger: logger.picture(step, name, picture))

    def card(self, text: str) -> None:
        """Hands over what the run was and came to."""
        self._each(lambda logger: logger.card(text))

    def close(self) -> None:
        """Closes all."""
        self._each(lambda logger: logger.close())

    def _each(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                tell(logger)
            except Exception as error:  # of a network, an account, a disk
                del self._open[name]
                self._warn(
                    f"log_to {name}",
                    f"{name} takes nothing any more ({reason_of(error)}); metrics.jsonl has all",
                )


def _module(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"log_to={name!r} needs the package {name} ({error}); pip install 'ibot-jax[{name}]'"
        ) from error


class _Wandb:
    def __init__(self, wandb: types.ModuleType, run: str, workdir: epath.Path, config: Flat):
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.name,
            id=run,
            resume="allow",
            config=dict(config),
        )
        # Its own steps only rise, and a resumed run repeats some.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log({"step": step, **row})

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({"step": step, name: self._image(picture)})

    def card(self, text: str) -> None:
        self._run.notes = text

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, mlflow: types.ModuleType, run: str, workdir: epath.Path, config: Flat):
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = mlflow.set_experiment(name).experiment_id
        found = self._client.search_runs([experiment], f"tags.ibot_jax = '{run}'")
        if found:
            self._run = found[0].info.run_id
            return
        tags = {"ibot_jax": run}
        self._run = self._client.create_run(
            experiment, run_name=workdir.name, tags=tags
        ).info.run_id
        parameters = [
            self._entities.Param(key, str(value)[:_LONGEST]) for key, value in config.items()
        ]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            some = parameters[start : start + _MOST_PARAMETERS]
            self._client.log_batch(self._run, params=some)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in row.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._client.log_image(self._run, picture, artifact_file=f"{name}_{step}.png")

    def card(self, text: str) -> None:
        self._client.set_tag(self._run, "mlflow.note.content", text)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Trackio:
    def __init__(self, trackio: types.ModuleType, run: str, workdir: epath.Path, config: Flat):
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{workdir.name}-{run}"
        trackio.init(project=project, name=name, config=dict(config), resume="allow")
        self._trackio = trackio

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._trackio.log(dict(row), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._trackio.log({name: self._trackio.Image(picture)}, step=step)

    def card(self, text: str) -> None:
        self._trackio.log({"card": self._trackio.Markdown(text)})

    def close(self) -> None:
        self._trackio.finish()


OPENERS = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}
