"""Replays a recorded run of the original and prints how far this project's step deviates.

    python -m ibot_jax.tools.replay FILE.npz [FILE.npz ...]

A file holds the initial student and teacher, every batch, every loss, and the state after the
first epoch and at the end. The step function is the one that `ibot_jax.main` runs, in float64.
Exit code 0 when every loss is within 1e-6 and every tensor within 1e-5, relative to the largest
value; 1 when not; 2 when a file cannot be read.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import functools
import json
import zipfile
from collections.abc import Iterator

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ibot_jax import config as configs
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.errors import UserError
from ibot_jax.methods import step as steps
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.foreign import original_names

LOSS_TOLERANCE = 1e-6
TENSOR_TOLERANCE = 1e-5

# The original's names for what the config calls otherwise; "act" is the head's.
_KEYS = {
    "embed_dim": "model.width",
    "depth": "model.depth",
    "num_heads": "model.heads",
    "mlp_ratio": "model.mlp_ratio",
    "patch_size": "model.patch_size",
    "layer_scale": "model.layer_scale",
    "hidden_dim": "head.hidden_dim",
    "bottleneck_dim": "head.bottleneck_dim",
    "out_dim": "head.prototypes",
    "patch_out_dim": "head.patch_prototypes",
    "act": "head.act",
    "norm_last_layer": "head.norm_last_layer",
    "shared_head": "head.shared",
    "shared_head_teacher": "head.shared_teacher",
    "batch_size": "batch_size",
    "global_crops": "data.global_views",
    "local_crops": "data.local_views",
    "lr": "optim.lr",
    "min_lr": "optim.min_lr",
    "weight_decay": "optim.weight_decay",
    "weight_decay_end": "optim.weight_decay_end",
    "momentum_teacher": "teacher_momentum",
    "clip_grad": "optim.clip",
    "optimizer": "optim.name",
    "warmup_teacher_temp": "loss.teacher_temp_start",
    "teacher_temp": "loss.teacher_temp",
    "warmup_teacher_patch_temp": "loss.teacher_patch_temp_start",
    "teacher_patch_temp": "loss.teacher_patch_temp",
    "lambda1": "loss.class_weight",
    "lambda2": "loss.patch_weight",
    "epochs": "duration",
    "warmup_epochs": "optim.warmup",
    "freeze_last_layer": "optim.freeze_last_layer",
    "warmup_teacher_temp_epochs": "loss.teacher_temp_warmup",
    "pred_start_epoch": "masks.start",
}
_ELSEWHERE = {"image_size", "local_size", "steps_per_epoch", "seed"}


def config_of(recorded: dict) -> tuple[ConfigDict, configs.Plan]:
    """Translates a recorded run's settings to a config and the plan of its length.

    Settings without a counterpart are named and passed over: the deviations tell whether they
    mattered.

    Args:
      recorded: the file's `config`.
    """
    config = configs.get_config()
    config.dtype = "float64"
    config.model.drop_path = 0.0
    config.data.global_size = (recorded["image_size"],) * 2
    config.data.local_size = (recorded["local_size"],) * 2
    defaults = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    for key, value in recorded.items():
        if key in _KEYS:
            name = _KEYS[key]
            config.update_from_flattened_dict({name: type(defaults[name])(value)})
        elif key not in _ELSEWHERE:
            print(f"note: setting {key}={value!r} has no counterpart here and is passed over")
    examples = recorded["steps_per_epoch"] * recorded["batch_size"]
    return config, configs.make_plan(config, examples)


class Recording:
    """A file of the original's numbers.

    Attributes:
      config: this project's config of the run.
      plan: its length.
      losses: [steps, 3] total, class and patch loss.
    """

    def __init__(self, path: str):
        """Opens a file.

        Args:
          path: of a `step_*.npz`.

        Raises:
          UserError: if the file cannot be read or is no recording.
        """
        try:
            self._arrays = np.load(path)
            recorded = json.loads(str(self._arrays["config"]))
            self.losses = self._arrays["loss"]
            self.config, self.plan = config_of(recorded)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a recorded run (step_*.npz): {error}") from None
        if any(name.endswith("gamma_1") for name in self._arrays.files):
            # Only its presence counts here: the values come from the file.
            self.config.model.layer_scale = self.config.model.layer_scale or 1.0

    def tensors(self, when: str, who: str) -> dict[str, np.ndarray]:
        """Returns the tensors of "student" or "teacher" at "init", "epoch1" or "final"."""
        prefix = f"{when}/{who}/"
        return {
            name.removeprefix(prefix): self._arrays[name]
            for name in self._arrays.files
            if name.startswith(prefix)
        }

    def centers(self, when: str) -> dict[str, np.ndarray]:
        """Returns the centers by kind, [K] float64."""
        return {
            "class": self._arrays[f"{when}/center"],
            "patch": self._arrays[f"{when}/patch_center"],
        }

    def batch(self, step: int) -> steps.Batch:
        """Returns a step's batch, batch-major and channels last, its views normalised."""

        def views(name):
            if name not in self._arrays:
                size = self.config.data.local_size
                return np.zeros((self.plan.batch_size, 0, *size, self.config.data.channels))
            return self._arrays[name].transpose(1, 0, 3, 4, 2).astype(np.float64)

        return {
            "global_views": views(f"in/{step:03d}/global"),
            "local_views": views(f"in/{step:03d}/local"),
            "masks": self._arrays[f"in/{step:03d}/mask"].swapaxes(0, 1),
        }

    def initial_state(self) -> steps.TrainState:
        """Returns the state from which the recorded run started."""
        head = self.config.head
        state = jax.jit(steps.make_init(self.config, self.plan))(jax.random.key(0))
        student = original_names.to_flax(self.tensors("init", "student"), head.shared)
        teacher = original_names.to_flax(self.tensors("init", "teacher"), head.shared_teacher)
        # The original's teacher has no mask token; here it has one, which it never uses.
        teacher["backbone"].setdefault("mask_token", student["backbone"]["mask_token"])
        for who, ours, theirs in (
            ("student", state.params, student),
            ("teacher", steps.teacher_params(state), teacher),
        ):
            if jax.tree.map(np.shape, ours) != jax.tree.map(np.shape, theirs):
                raise UserError(f"the {who} in the file is not the model that its config describes")
        to_device = functools.partial(jax.tree.map, jnp.asarray)
        return state.replace(
            params=to_device(student),
            opt_state=optax.tree.set(state.opt_state, teacher=to_device(teacher)),
            centers=to_device(self.centers("init")),
        )


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference relative to the largest recorded value."""
    largest = np.abs(theirs).max()
    difference = np.abs(ours - theirs).max()
    return float(difference / largest if largest > 0 else difference)


def deviations(recording: Recording) -> Iterator[tuple[str, float, float]]:
    """Replays a recording; yields (quantity, deviation, tolerance) as it goes."""
    mesh = make_mesh(jax.devices()[:1])  # recorded batches may not divide by more
    train_step = jax.jit(
        steps.make_train_step(recording.config, recording.plan, mesh), donate_argnums=0
    )
    state = recording.initial_state()
    patch_size = recording.config.model.patch_size
    losses = []
    for step in range(len(recording.losses)):
        state, metrics = train_step(state, recording.batch(step), jax.random.key(0))
        losses.append([float(metrics[name]) for name in ("loss", "class_loss", "patch_loss")])
        done = step + 1
        moments = {recording.plan.steps_per_epoch: "epoch1", len(recording.losses): "final"}
        if done not in moments:
            continue
        when = moments[done]
        for who, params in (("student", state.params), ("teacher", steps.teacher_params(state))):
            ours = original_names.to_torch(params, patch_size)
            worst = max(
                deviation(ours[name], tensor)
                for name, tensor in recording.tensors(when, who).items()
            )
            yield f"{when} {who}", worst, TENSOR_TOLERANCE
        for kind, center in recording.centers(when).items():
            worst = deviation(np.asarray(state.centers[kind]), center)
            yield f"{when} {kind} center", worst, TENSOR_TOLERANCE
    for column, name in enumerate(("total loss", "class loss", "patch loss")):
        pairs = zip(losses, recording.losses, strict=True)
        worst = max(deviation(ours[column], theirs[column]) for ours, theirs in pairs)
        yield name, worst, LOSS_TOLERANCE


def main(argv: list[str] | None = None) -> int:
    """Replays the files that the command line names; returns the exit code."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m ibot_jax.tools.replay",
        description="Replays recorded runs of the original and prints the largest deviations.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="a recorded run")
    files = parser.parse_args(argv).files
    jax.config.update("jax_enable_x64", True)
    exact = True
    for path in files:
        print(path)
        for name, worst, tolerance in deviations(Recording(path)):
            verdict = "ok" if worst <= tolerance else f"above {tolerance:g}"
            exact &= worst <= tolerance
            print(f"  {name:22s} {worst:9.2e}  {verdict}")
    return 0 if exact else 1


if __name__ == "__main__":
    leave(main())
