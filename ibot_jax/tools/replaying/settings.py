"""The original's settings, as its recordings have them, in this project's config."""

from typing import Any

from ibot_jax.config.defaults import KEYS, get_config
from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import config_problems
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.relations import RELATIONS
from ibot_jax.tools.replaying.recording import Recording

# The original's names for what the config calls otherwise: of a model of each architecture,
_MODEL = {
    "embed_dim": "model.width",
    "mlp_ratio": "model.mlp_ratio",
    "patch_size": "model.patch_size",
}
_OF_ARCH = {
    "vit": {
        "depth": "model.depth",
        "num_heads": "model.heads",
        "layer_scale": "model.layer_scale",
    },
    "swin": {
        "depths": "model.stage_depths",
        "num_heads": "model.stage_heads",
        "window_size": "model.window",
    },
}
# of a run, and of its durations in epochs.
_RUN = {
    "hidden_dim": "head.hidden_dim",
    "bottleneck_dim": "head.bottleneck_dim",
    "out_dim": "head.prototypes",
    "patch_out_dim": "head.patch_prototypes",
    "act": "head.act",
    "act_in_head": "head.act",
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
    "student_temp": "loss.student_temp",
    "center_momentum": "loss.center_momentum",
    "lambda1": "loss.class_weight",
    "lambda2": "loss.patch_weight",
}
_EPOCHS = {
    "epochs": "duration",
    "warmup_epochs": "optim.warmup",
    "freeze_last_layer": "optim.freeze_last_layer",
    "warmup_teacher_temp_epochs": "loss.teacher_temp_warmup",
    "pred_start_epoch": "masks.start",
}
# What a file need not tell: here, too, it has the original's default.
_MAY_LACK = {
    "mlp_ratio",
    "patch_size",
    "layer_scale",
    "act",
    "act_in_head",
    "student_temp",
    "center_momentum",
}
# What is here as the original has it by default, and in no other way; None is off.
_ONLY = {
    "qkv_bias": (True,),
    "drop_path": (0, None),  # what was dropped is not recorded
    "attn_drop_rate": (0, None),
    "norm": (None, "", False),
    "norm_in_head": (None, "", False),
    "last_norm": (None, "", False),
    "nlayers": (3,),
    "nlayers_head": (3,),
}
_READ_ELSEWHERE = {
    "arch",
    "image_size",
    "img_size",
    "local_size",
    "mask_patch",
    "steps_per_epoch",
    "center_momentum2",
}
_WITHOUT_EFFECT = {"seed", "use_fp16", "num_workers", "pred_ratio", "pred_ratio_var", "pred_shape"}


def run_of(recording: Recording) -> tuple[Section, Plan]:
    """Translates a recorded run's settings.

    Args:
      recording: with the settings of a run.

    Returns:
      This project's config, and the plan of its length.

    Raises:
      UserError: for what is missing, what is not there yet, and values that no run here takes.
    """
    config = model_of(recording)
    settings = dict(recording.settings)
    for name in (*_RUN, *_EPOCHS):
        if name not in _MAY_LACK:
            recording.setting(name)
    if settings["shared_head"]:
        settings["patch_out_dim"] = settings["out_dim"]  # the original does not read it
    momentum = settings.get("center_momentum")
    if settings.get("center_momentum2", momentum) != momentum:
        raise recording.problem("centers with two momenta, center_momentum2, are not there yet")
    for name, value in settings.items():
        if name in _RUN:
            _set(recording, config, _RUN[name], name, value)
        elif name in _EPOCHS:
            config.update_from_flattened_dict({_EPOCHS[name]: f"{value} epochs"})
    if settings["local_crops"]:
        config.data.local_size = _size(recording, "local_size")
    _refuse_problems(recording, config)
    steps = recording.setting("steps_per_epoch")
    if type(steps) is not int or steps < 1:
        raise recording.problem(f"steps_per_epoch={steps!r} is no number of steps")
    try:
        plan = make_plan(config, steps * config.batch_size)
    except UserError as error:
        raise recording.problem(f"its length is none: {error}") from None
    return config, plan


def model_of(recording: Recording) -> Section:
    """Returns this project's config of a recorded model, for float64.

    Args:
      recording: with the settings of a model.

    Raises:
      UserError: for what is missing, what is not there yet, and values that no model here takes.
    """
    settings = recording.settings
    arch = str(settings.get("arch", "swin" if "depths" in settings else "vit")).partition("_")[0]
    if arch not in _OF_ARCH:
        raise recording.problem(f"the architecture {arch} is not there yet")
    for name, allowed in _ONLY.items():
        if name in settings and settings[name] not in allowed:
            raise recording.problem(f"{name}={settings[name]!r} is not there yet")
    config = get_config()
    config.dtype = "float64"
    config.model.update(arch=arch, drop_path=0.0, patch_size=4 if arch == "swin" else 16)
    for name, key in (_MODEL | _OF_ARCH[arch]).items():
        if name not in _MAY_LACK:
            recording.setting(name)
        if name in settings:
            _set(recording, config, key, name, settings[name])
    if any(name.endswith("gamma_1") for name in recording.names):
        # Only its presence counts here: the values come from the file.
        config.model.layer_scale = config.model.layer_scale or 1.0
    side = "image_size" if "image_size" in settings else "img_size"
    config.data.global_size = _size(recording, side)
    cell = geometry_of(config.model).stride
    if settings.get("mask_patch", cell) != cell:
        problem = f"mask_patch={settings['mask_patch']} is not there yet, only {cell}"
        raise recording.problem(problem)
    _refuse_problems(recording, config)
    return config


def _set(recording: Recording, config: Section, key: str, name: str, value: Any) -> None:
    kind = type(KEYS[key].default)
    if value is None and kind in (int, float):
        value = 0  # the original's way to turn something off
    if kind is bool and value in (0, 1):
        value = bool(value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind:
        raise recording.problem(f"{name}={value!r} is no value of {key}")
    config.update_from_flattened_dict({key: value})


def _size(recording: Recording, name: str) -> tuple[int, int]:
    value = recording.setting(name)
    sides = value if isinstance(value, list) else [value]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise recording.problem(f"{name}={value!r} is no size of an image")
    return sides[0], sides[-1]


def _refuse_problems(recording: Recording, config: Section) -> None:
    problems = config_problems(flatten(config), KEYS, RELATIONS)
    if problems:
        raise recording.problem(f"its settings are of no run here: {problems[0]}")


def unknown_settings(recording: Recording) -> list[str]:
    """Returns the settings that are not known here."""
    known = {*_ONLY, *_READ_ELSEWHERE, *_WITHOUT_EFFECT}
    for names in (_MODEL, *_OF_ARCH.values(), _RUN, _EPOCHS):
        known |= names.keys()
    return [f"{name}={value!r}" for name, value in recording.settings.items() if name not in known]
