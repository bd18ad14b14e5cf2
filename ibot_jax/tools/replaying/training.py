"""Runs of the original: every step is done again from the recorded start and batches.

A file holds `{init,epoch1,final}/{student,teacher}/NAME` and the centers of the same moments, the
batches `in/STEP/{global,local,mask}`, views first, and `loss` [steps, 3]: total, class and patch
loss. Schedules by step (`lr`, `wd`, `momentum`) and by epoch (`teacher_temp`,
`teacher_patch_temp`) are compared where they are there.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.methods.views import Batch
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training as steps
from ibot_jax.tools.replaying.recording import (
    Deviation,
    Deviations,
    Kind,
    Recording,
    compare,
    difference,
)
from ibot_jax.tools.replaying.settings import run_of, unknown_settings
from ibot_jax.weights.foreign import original_names

LOSS_TOLERANCE = 1e-10
TENSOR_TOLERANCE = 1e-8

_LOSSES = {"total loss": "loss", "class loss": "class_loss", "patch loss": "patch_loss"}
_BY_STEP = {"lr": "lr", "wd": "weight_decay", "momentum": "teacher_momentum"}
_BY_EPOCH = ("teacher_temp", "teacher_patch_temp")
_CENTERS = {"class": "center", "patch": "patch_center"}
_OF_HEADS = re.compile(r"head\.(mlp\.[024]\.(weight|bias)|last_layer2?\.weight_[gv])")


def takes(recording: Recording) -> bool:
    """Returns whether a recording is of a run of the original."""
    return recording.has("init/student/") and "recipe" not in recording.settings


def replay(recording: Recording) -> Deviations:
    """Runs all steps in float64, on one device.

    Raises:
      UserError: for what is missing in the file, and what is not there yet.
    """
    if not recording.has("final/"):
        raise recording.problem("it has no final/: its end is not recorded, and is not compared")
    _refuse_other_heads(recording)
    config, plan = run_of(recording)
    losses = recording["loss"]
    if losses.ndim != 2 or losses.shape[1] != len(_LOSSES) or not len(losses):
        raise recording.problem(f"its loss is {list(losses.shape)}, not [steps, {len(_LOSSES)}]")
    moments = {"final": len(losses)}
    if recording.has("epoch1/"):
        moments = {"epoch1": plan.steps_per_epoch, **moments}
    refuse_incomplete(recording, moments)
    mesh = make_mesh(jax.devices()[:1])  # recorded batches may not divide by more
    train_step = jax.jit(steps.make_train_step(config, plan, mesh), donate_argnums=0)
    state = _first_state(recording, config, plan)
    metrics, found = [], []
    for step in range(len(losses)):
        batch = batch_of(recording, step, config)
        state, of_step = train_step(state, batch, jax.random.key(0))
        metrics.append({name: float(value) for name, value in of_step.items()})
        for when in moments:
            if moments[when] == step + 1:
                found += _compare_state(recording, when, state, config)
    yield from _compare_losses(losses, metrics)
    yield from found
    yield from _compare_schedules(recording, metrics, plan)


KIND = Kind("a run of the original", takes, replay, unknown_settings)


def _refuse_other_heads(recording: Recording) -> None:
    for name in sorted(recording.names):
        tensor = name.removeprefix("init/student/")
        if tensor.startswith("head.") and not _OF_HEADS.fullmatch(tensor):
            raise recording.problem(
                f"{tensor} is of a head with a norm, or with another number of layers; neither is "
                "there yet"
            )


def refuse_incomplete(recording: Recording, moments: dict[str, int]) -> None:
    """Raises where a moment lacks something that the start has, or is never reached."""
    first = {name.partition("/")[2] for name in recording.names if name.startswith("init/")}
    first = {name for name in first if not name.startswith("gram_teacher/")}  # which stays
    for when in moments:
        if missing := {f"{when}/{name}" for name in first} - recording.names:
            raise recording.problem(f"it has no {min(missing)}")
        if moments[when] > moments["final"]:
            raise recording.problem(f"it ends before {when}/")


def _first_state(recording: Recording, config: Section, plan: Plan) -> TrainState:
    head = config.head
    student = _params(recording, "student", head.shared)
    teacher = _params(recording, "teacher", head.shared_teacher)
    # The original's teacher has no mask token; here it has one, which it never uses.
    if "mask_token" in student["backbone"]:
        teacher["backbone"].setdefault("mask_token", student["backbone"]["mask_token"])
    state = jax.jit(steps.make_init(config, plan))(jax.random.key(0))
    centers = _centers(recording, "init")
    for who, ours, theirs in (
        ("student", state.params, student),
        ("teacher", teacher_params(state), teacher),
        ("center", state.buffers["centers"], centers),
    ):
        if jax.tree.map(np.shape, ours) != jax.tree.map(np.shape, theirs):
            raise recording.problem(f"its init/{who} is not of the model that its config describes")
    to_device = functools.partial(jax.tree.map, jnp.asarray)
    return state.replace(
        params=to_device(student),
        opt_state=optax.tree.set(state.opt_state, teacher=to_device(teacher)),
        buffers={"centers": to_device(centers)},
    )


def _params(recording: Recording, who: str, shared: bool) -> Params:
    tensors = recording.below(f"init/{who}/")
    try:
        params = original_names.to_flax(tensors, shared)
    except KeyError as error:
        raise recording.problem(f"init/{who} has {error}, which no model here has") from None
    if params.keys() != {"backbone", "head"}:
        raise recording.problem(f"init/{who} has no backbone and head")
    return params


def _centers(recording: Recording, when: str) -> dict[str, np.ndarray]:
    return {kind: recording[f"{when}/{name}"] for kind, name in _CENTERS.items()}


def batch_of(recording: Recording, step: int, config: Section) -> Batch:
    """Returns a step's batch, batch-major and channels last, its views normalised."""
    size, data = config.batch_size, config.data
    sizes = {"global": (data.global_views, data.global_size)}
    sizes["local"] = (data.local_views, data.local_size)
    if anchor_is_kept(config.gram):
        sizes["gram"] = data.global_views, gram_size(config.gram, data)
    batch = {}
    for kind, (number, (height, width)) in sizes.items():
        shape = (number, size, data.channels, height, width)
        views = recording[f"in/{step:03d}/{kind}"] if number else np.zeros(shape)
        if views.shape != shape:
            raise recording.problem(
                f"in/{step:03d}/{kind} is {list(views.shape)}, not {list(shape)} as its config has "
                "it"
            )
        batch[f"{kind}_views"] = views.transpose(1, 0, 3, 4, 2).astype(np.float64)
    masks = recording[f"in/{step:03d}/mask"]
    return batch | {"masks": masks.astype(bool).swapaxes(0, 1)}


def _compare_state(
    recording: Recording, when: str, state: TrainState, config: Section
) -> Deviations:
    networks = {"student": state.params, "teacher": teacher_params(state)}
    for who, params in networks.items():
        theirs = recording.below(f"{when}/{who}/")
        ours = original_names.to_torch(params, config.model.patch_size)
        yield compare(f"{when} {who}", ours, theirs, TENSOR_TOLERANCE)
    for kind, center in _centers(recording, when).items():
        found = difference(np.asarray(state.buffers["centers"][kind]), center)
        yield Deviation(f"{when} {kind} center", found, TENSOR_TOLERANCE)


def _compare_losses(losses: np.ndarray, metrics: list[dict[str, float]]) -> Deviations:
    for column, (quantity, name) in enumerate(_LOSSES.items()):
        found = [
            difference(np.array(of_step[name]), theirs)
            for of_step, theirs in zip(metrics, losses[:, column], strict=True)
        ]
        worst = int(np.argmax(found))  # the first NaN, if there is one
        yield Deviation(quantity, found[worst], LOSS_TOLERANCE, f"step {worst}")


def _compare_schedules(
    recording: Recording, metrics: list[dict[str, float]], plan: Plan
) -> Deviations:
    epochs = -(-len(metrics) // plan.steps_per_epoch)
    schedules = {name: (ours, 1, len(metrics)) for name, ours in _BY_STEP.items()}
    schedules |= {name: (name, plan.steps_per_epoch, epochs) for name in _BY_EPOCH}
    for name, (ours, every, length) in schedules.items():
        if name in recording:
            values = np.array([of_step[ours] for of_step in metrics[::every]])
            found = difference(values, recording[name][:length])
            yield Deviation(name, found, TENSOR_TOLERANCE)
