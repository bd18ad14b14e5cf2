"""Runs of DINOv2 and DINOv3: every step is done again from the recorded start and batches.

A file holds, as one of the original does, `{init,step1,epoch1,final}/{student,teacher}/NAME`, the
centers of the same moments where there are any, and the batches `in/STEP/{global,local,mask}`; with
a gram loss `init/gram_teacher/NAME`, and what that sees, `in/STEP/gram`. Besides, there is `loss`
[steps, columns], whose `loss_names` are JSON: `total` is what is differentiated, the others are
what the program logs; `grad/STEP/NAME`, gradients before clipping, and `grad_norm` [steps,
modules], of those that `grad_norm_names` says; and schedules by step. Its `config` has, in
`whole_config`, the program's own.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.config.anchor import anchor_is_kept
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.models.parameters import Params
from ibot_jax.optim.groups import modules
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import training as steps
from ibot_jax.tools.replaying import heir_settings
from ibot_jax.tools.replaying.heirs import EPSILONS
from ibot_jax.tools.replaying.recording import (
    Deviation,
    Deviations,
    Kind,
    Recording,
    compare,
    difference,
)
from ibot_jax.tools.replaying.training import batch_of, refuse_incomplete
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.convert import Taken, take
from ibot_jax.weights.foreign.files.contents import Contents

LOSS_TOLERANCE = 1e-9
TENSOR_TOLERANCE = 1e-8
GRADIENT_TOLERANCE = 1e-6  # recorded in float32

_NETWORKS = ("student", "teacher")
_SCHEDULES = {"lr": "lr", "wd": "weight_decay", "momentum": "teacher_momentum"}
_SCHEDULES |= {"teacher_temp": "teacher_temp"}
_CENTERS = {"class": "center", "patch": "patch_center"}
_MODULES = {"backbone": "backbone", "dino_head": "head", "ibot_head": "patch_head"}


def takes(recording: Recording) -> bool:
    """Returns whether a recording is of a run of DINOv2 or DINOv3."""
    of_run = recording.has("init/student/")
    return of_run and recording.settings.get("recipe") in ("dinov2", "dinov3")


def replay(recording: Recording) -> Deviations:
    """Runs all steps in float64, on one device.

    Raises:
      UserError: for what is missing in the file, and what is not there yet.
    """
    if not recording.has("final/"):
        raise recording.problem("it has no final/: its end is not recorded, and is not compared")
    taken = _taken(recording, "init/student/")
    config, plan = heir_settings.run_of(recording, taken)
    losses = recording["loss"]
    lengths = {"step1": 1, "epoch1": plan.steps_per_epoch, "final": len(losses)}
    moments = {name: step for name, step in lengths.items() if recording.has(f"{name}/")}
    refuse_incomplete(recording, moments)
    mesh = make_mesh(jax.devices()[:1])
    train_step = jax.jit(steps.make_train_step(config, plan, mesh))
    state = _first_state(recording, config, plan, taken)
    gram = {}
    if anchor_is_kept(config.gram):
        params = _taken(recording, "init/gram_teacher/", head=False).params
        gram["gram"] = jax.tree.map(jnp.asarray, params)
    metrics, found = [], []
    for step in range(len(losses)):
        batch = batch_of(recording, step, config)
        before = state
        state, of_step = train_step(state, batch, jax.random.key(0), gram)
        metrics.append({name: float(value) for name, value in of_step.items()})
        if recording.has(f"grad/{step:03d}/"):
            found.append(_compare_gradients(recording, step, before, state, config))
        for when in moments:
            if moments[when] == step + 1:
                found += _compare_state(recording, when, state)
    yield from _compare_losses(recording, metrics, config)
    yield from found
    for name, ours in _SCHEDULES.items():
        values = np.array([of_step[ours] for of_step in metrics])
        yield Deviation(name, difference(values, recording[name]), TENSOR_TOLERANCE)


KIND = Kind("a run of DINOv2 or DINOv3", takes, replay)


def _taken(recording: Recording, prefix: str, *, head: bool = True) -> Taken:
    """Converts the tensors whose names begin with a prefix, as `convert` does a file's."""
    tensors = recording.below(prefix)
    theirs = heir_settings.whole_config(recording)
    ways = tuple(theirs.get(f"student.interpolate_{way}") for way in ("offset", "antialias"))
    size = [recording.setting("image_size")] * 2
    facts: dict[str, Any] = {"size": size, "resampling": ways}
    norm = theirs.get("student.norm_layer", "layernorm")
    if norm not in EPSILONS:
        raise recording.problem(f"student.norm_layer={norm!r} is not there yet")
    facts["epsilon"] = EPSILONS[norm]
    known = Known(heads=recording.setting("num_heads"))
    contents = Contents("recording", {"": tensors}, {}, facts)
    return take(contents, "", recording.path, known, head=head)


def _first_state(recording: Recording, config: Section, plan: Plan, taken: Taken) -> TrainState:
    state = jax.jit(steps.make_init(config, plan))(jax.random.key(0))
    params = {"student": taken.params, "teacher": _taken(recording, "init/teacher/").params}
    ours = {"student": state.params, "teacher": teacher_params(state)}
    for who in _NETWORKS:
        if jax.tree.map(np.shape, ours[who]) != jax.tree.map(np.shape, params[who]):
            raise recording.problem(f"its init/{who} is not of the model that its config describes")
    to_device = functools.partial(jax.tree.map, jnp.asarray)
    centers = {kind: recording[f"init/{_CENTERS[kind]}"] for kind in _centers(state)}
    return state.replace(
        params=to_device(params["student"]),
        opt_state=optax.tree.set(state.opt_state, teacher=to_device(params["teacher"])),
        buffers={"centers": to_device(centers)} if centers else {},
    )


def _centers(state: TrainState) -> dict[str, jax.Array]:
    return state.buffers.get("centers", {})


def _compare_state(recording: Recording, when: str, state: TrainState) -> Deviations:
    for who, params in zip(_NETWORKS, (state.params, teacher_params(state)), strict=True):
        theirs = _taken(recording, f"{when}/{who}/").params
        yield compare(f"{when} {who}", _named(params), _named(theirs), TENSOR_TOLERANCE)
    for kind, center in _centers(state).items():
        found = difference(np.asarray(center), recording[f"{when}/{_CENTERS[kind]}"])
        yield Deviation(f"{when} {kind} center", found, TENSOR_TOLERANCE)


def _named(params: Params) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def _compare_gradients(
    recording: Recording, step: int, before: TrainState, after: TrainState, config: Section
) -> Deviation:
    """Compares the gradients that Adam was given, which were clipped."""
    decay, _ = config.optim.betas
    new, old = (_first_moments(state) for state in (after, before))
    ours = {name: (new[name] - decay * old[name]) / (1 - decay) for name in new}
    theirs = _named(_taken(recording, f"grad/{step:03d}/").params)
    of_tensor = _named(modules(after.params))
    norms = dict(
        zip(
            [_MODULES[name] for name in json.loads(str(recording["grad_norm_names"]))],
            recording["grad_norm"][step],
            strict=True,
        )
    )
    factors = {name: min(1, config.optim.clip / (norm + 1e-6)) for name, norm in norms.items()}
    clipped = {name: x * factors[str(of_tensor[name])] for name, x in theirs.items()}
    return compare(f"gradients of step {step}, clipped", ours, clipped, GRADIENT_TOLERANCE)


def _first_moments(state: TrainState) -> Mapping[str, np.ndarray]:
    """Returns Adam's first moments by the parameters' names, of all groups of the optimiser."""
    found = {}
    for _, tree in optax.tree_utils.tree_get_all_with_path(state.opt_state, "mu"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = np.asarray(leaf)
    return found


def _compare_losses(
    recording: Recording, metrics: list[dict[str, float]], config: Section
) -> Deviations:
    """Compares what is differentiated, and its terms, which are logged in parts of it."""
    names = json.loads(str(recording["loss_names"]))
    columns = dict(zip(names, recording["loss"].T, strict=True))
    if recording.settings["recipe"] == "dinov3":
        columns = _weighted(columns, config)
    theirs = {
        "total loss": ("loss", columns["total"]),
        "class loss": (
            "class_loss",
            columns["dino_global_crops_loss"] + columns["dino_local_crops_loss"],
        ),
        "koleo loss": ("koleo_loss", 2 * columns["koleo_loss"]),
        "patch loss": ("patch_loss", 2 * columns["ibot_loss"]),
    }
    if "gram_loss" in columns:
        theirs["gram loss"] = "gram_loss", columns["gram_loss"]
    for quantity, (ours, values) in theirs.items():
        found = [
            difference(np.array(of_step[ours]), value)
            for of_step, value in zip(metrics, values, strict=True)
        ]
        worst = int(np.argmax(found))  # the first NaN, if there is one
        yield Deviation(quantity, found[worst], LOSS_TOLERANCE, f"step {worst}")


def _weighted(columns: Mapping[str, np.ndarray], config: Section) -> dict[str, np.ndarray]:
    """Returns DINOv3's columns, means without weights, as DINOv2 logs them."""
    loss, pairs = config.loss, {"global": 2, "local": 2 * config.data.local_views}
    weighted = {
        f"dino_{kind}_crops_loss": loss.class_weight * number / sum(pairs.values())
        for kind, number in pairs.items()
    }
    weighted |= {"koleo_loss": loss.koleo_weight, "ibot_loss": loss.patch_weight / 2}
    weighted |= {"gram_loss": config.gram.weight}
    return {name: x * weighted.get(name, 1) for name, x in columns.items()}
