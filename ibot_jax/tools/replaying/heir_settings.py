"""Settings of DINOv2 and DINOv3, as their recordings have them, in this project's config.

The model is told by its tensors, all else by the YAML that ran, `whole_config`.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ibot_jax.config.defaults import KEYS, get_config
from ibot_jax.config.flat import with_values
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import config_problems
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.models.relations import RELATIONS
from ibot_jax.tools.replaying.recording import Recording
from ibot_jax.weights.foreign.convert import Taken

_TARGETS = {"centering": "centering", "sinkhorn_knopp": "sinkhorn"}
# By their names in the YAML, the keys with the same values; those of one temperature or epoch.
_SAME = {
    "dino.loss_weight": "loss.class_weight",
    "dino.koleo_loss_weight": "loss.koleo_weight",
    "ibot.loss_weight": "loss.patch_weight",
    "teacher.momentum_teacher": "teacher_momentum",
    "teacher.final_momentum_teacher": "teacher_momentum_end",
    "teacher.warmup_teacher_temp": "loss.teacher_temp_start",
    "teacher.teacher_temp": "loss.teacher_temp",
    "optim.min_lr": "optim.min_lr",
    "optim.weight_decay": "optim.weight_decay",
    "optim.weight_decay_end": "optim.weight_decay_end",
    "optim.clip_grad": "optim.clip",
    "optim.layerwise_decay": "optim.layer_decay",
    "crops.local_crops_number": "data.local_views",
}
_EPOCHS = {
    "optim.epochs": "duration",
    "optim.warmup_epochs": "optim.warmup",
    "optim.freeze_last_layer_epochs": "optim.freeze_last_layer",
    "teacher.warmup_teacher_temp_epochs": "loss.teacher_temp_warmup",
}
# What is here in one way only.
_ONLY = {
    "student.drop_path_rate": (0,),  # what was dropped is not recorded
    "optim.scaling_rule": ("sqrt_wrt_1024",),
    "train.centering": tuple(_TARGETS),
    "dino.head_nlayers": (3,),
    "ibot.head_nlayers": (3,),
}
# And of DINOv3.
_ONLY_V3 = {
    "dino.global_ignore_diagonal": (True,),
    "dino.koleo_loss_distributed": (False,),
    "dino.reweight_dino_local_loss": (False,),
    "student.pos_embed_rope_shift_coords": (None,),  # what was drawn is not recorded
    "student.pos_embed_rope_jitter_coords": (None,),
    "student.pos_embed_rope_rescale_coords": (None,),
    "gram.loss_weight_schedule": (None,),
}


def whole_config(recording: Recording) -> dict[str, Any]:
    """Returns the YAML that ran, {"optim.epochs": 4, ...}."""
    whole = recording.setting("whole_config")
    if not isinstance(whole, Mapping):
        raise recording.problem("its whole_config is no object")
    return dict(_flat("", whole))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def run_of(recording: Recording, taken: Taken) -> tuple[Section, Plan]:
    """Translates a recorded run's settings.

    Args:
      recording: with the settings of a run.
      taken: its student, converted.

    Returns:
      This project's config, and the plan of its length.

    Raises:
      UserError: for what is missing, what is not there yet, and values that no run here takes.
    """
    theirs = whole_config(recording)

    def of(name: str) -> Any:
        if name not in theirs:
            raise recording.problem(f"its whole_config has no {name}")
        return theirs[name]

    third = recording.settings["recipe"] == "dinov3"
    for name, allowed in (_ONLY | (_ONLY_V3 if third else {})).items():
        if of(name) not in allowed:
            raise recording.problem(f"{name}={theirs[name]!r} is not there yet")
    epoch = of("train.OFFICIAL_EPOCH_LENGTH")
    size = recording.setting("batch_size")
    values = dict(taken.config) | {key: of(name) for name, key in _SAME.items()}
    values |= {key: f"{of(name) * epoch} steps" for name, key in _EPOCHS.items()}
    values |= {
        "method": "dinov2",
        "dtype": "float64",
        "batch_size": size,
        "model.drop_path": 0.0,
        "head.norm_last_layer": False,
        "loss.targets": _TARGETS[of("train.centering")],
        "optim.lr": of("optim.lr") / math.sqrt(size / 256),  # which is scaled already
        "optim.lr_scaling": "sqrt",
        "optim.betas": (of("optim.adamw_beta1"), of("optim.adamw_beta2")),
        "optim.clip_by": "module",
        "optim.rates": f"backbone/patch_embed: {of('optim.patch_embed_lr_mult')}",
        "optim.freeze_last_layer_by": "rate",
        "data.global_views": 2,
        "data.global_size": (recording.setting("image_size"),) * 2,
        "data.local_size": (recording.setting("local_size"),) * 2,
    }
    if third:
        values |= _of_dinov3(of, recording.problem)
    for when in ("", "_start"):
        values[f"loss.teacher_patch_temp{when}"] = values[f"loss.teacher_temp{when}"]
    values = {key: _of_kind(value, KEYS[key].default) for key, value in values.items()}
    if problems := config_problems(values, KEYS, RELATIONS):
        raise recording.problem(f"its settings are of no run here: {problems[0]}")
    config = with_values(get_config(), values)
    try:
        return config, make_plan(config, epoch * size)
    except UserError as error:
        raise recording.problem(f"its length is none: {error}") from None


def _of_dinov3(of: Callable[[str], Any], problem: Callable[[str], UserError]) -> dict[str, Any]:
    """Returns what DINOv3 has besides, by the names in the YAML."""
    values = {"loss.koleo_nearest": of("dino.koleo_topk")}
    if extra := of("optim.schedule_trunc_extra"):
        values |= {"optim.trunc_extra": extra, "optim.schedule_end": "included"}
    if not of("gram.use_loss"):
        return values
    if of("gram.rep_update"):
        raise problem("gram.rep_update=True is not there yet")
    negatives = "drop" if of("gram.remove_neg") else "keep"
    current = of("gram.ema_teacher")
    values |= {
        "gram.weight": of("gram.loss_weight"),
        "gram.teacher": "current" if current else "earlier",
        "gram.level": "image" if of("gram.img_level") else "batch",
        "gram.negatives": "drop_teacher" if of("gram.remove_only_teacher_neg") else negatives,
        "gram.tokens": of("gram.tokens_used"),
        "gram.normalize": of("gram.normalized"),
        "gram.antialias": of("gram.global_teacher_resize_antialias"),
    }
    if not current:
        sizes = (of(f"crops.{kind}_crops_size") for kind in ("gram_teacher", "global"))
        values["gram.scale"] = operator.truediv(*sizes)
    return values


def _of_kind(value: Any, default: Any) -> Any:
    """Returns a whole number as the float that its key has."""
    return float(value) if type(default) is float and type(value) is int else value
