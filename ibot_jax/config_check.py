"""Checks of a config, before anything compiles: each mistake is one line.

A message names the key, the value found, and what would do.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from ibot_jax.config import Plan, get_config, parse_duration
from ibot_jax.config_keys import check_keys_and_types, entries, require

_CHOICES = {
    "dtype": ("bfloat16", "float32", "float64"),
    "head.act": ("gelu", "relu"),
    "model.kernels": ("auto", "cudnn", "pallas", "xla"),
    "model.remat": ("none", "dots", "blocks"),
    "masks.kind": ("block", "random"),
    "optim.name": ("adamw", "sgd", "lars"),
    "data.augment": ("device", "host"),
    "data.resize": ("simd", "pillow"),
}
_PAIRS = {
    "data": ("global_size", "local_size", "global_scale", "local_scale", "aspect", "blur_radius")
}
_WHOLE_NUMBERS = {"data": ("global_size", "local_size")}
_VIEW_KINDS = {"data": ("blur", "solarize")}  # global view 1, other global views, local views
# Ranges; of a key with several entries, each entry lies in it. "" are the keys of no section.
_POSITIVE = {
    "": ("batch_size", "grad_accum_steps"),
    "mesh": ("fsdp", "tensor"),
    "model": ("width", "depth", "heads", "mlp_ratio", "patch_size"),
    "head": ("hidden_dim", "bottleneck_dim"),
    "loss": (
        "student_temp",
        "teacher_temp_start",
        "teacher_temp",
        "teacher_patch_temp_start",
        "teacher_patch_temp",
        "max_logits",
    ),
    "optim": ("lr",),
    "data": ("channels", "global_views", "global_size", "std"),
    "knn": ("k", "resize", "temperature", "batch_size"),
    "probe": ("l2",),
    "checkpoint": ("keep",),
}
_NOT_NEGATIVE = {
    "": ("seed",),
    "mesh": ("data",),
    "model": ("layer_scale",),
    "loss": ("class_weight", "patch_weight"),
    "masks": ("variances",),
    "optim": ("min_lr", "weight_decay", "weight_decay_end", "clip"),
    "data": (
        "max_per_class",
        "local_views",
        "brightness",
        "contrast",
        "saturation",
        "workers",
        "stall_seconds",
    ),
    "knn": ("max_train_per_class", "max_test_per_class", "max_unlabelled"),
    "probe": ("max_steps",),
}
_SHARES = {
    "": ("teacher_momentum",),
    "loss": ("center_momentum",),
    "masks": ("ratios",),
    "data": ("flip", "jitter", "gray", "blur", "solarize", "max_bad_share"),
}
_DURATIONS = {
    "": ("duration", "log_every"),
    "loss": ("teacher_temp_warmup",),
    "masks": ("start",),
    "optim": ("warmup", "freeze_last_layer"),
    "knn": ("every",),
    "checkpoint": ("every",),
}
_PERIODS = ("log_every", "knn.every", "checkpoint.every")  # what happens again and again


def _keys(table: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{section}.{name}".lstrip(".") for section, names in table.items() for name in names]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as {"optim.lr": value, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def check_config(config: ConfigDict) -> None:
    """Checks all that can be known without data and devices.

    Raises:
      UserError: for the first mistake found.
    """
    flat = flatten(config)
    check_keys_and_types(flat, flatten(get_config()), _keys(_WHOLE_NUMBERS))
    for check in (_check_lengths, _check_values, _check_model, _check_masks, _check_views):
        check(flat)


def check_plan(config: ConfigDict, plan: Plan) -> None:
    """Checks the durations that need the size of the data.

    Raises:
      UserError: for the first mistake found.
    """
    flat = flatten(config)
    length = f"the run ({plan.total_steps} steps, duration={config.duration!r})"
    remedy = "shorten the one or lengthen the other"

    def steps(key):
        return plan.steps(key, flat[key])

    key = "optim.warmup"
    problem = f"({steps(key)} steps) is not shorter than {length}; {remedy}"
    require(flat, key, steps(key) < plan.total_steps, problem)
    key = "loss.teacher_temp_warmup"
    problem = (
        f"({steps(key)} steps, for patches after masks.start={config.masks.start!r}) is longer "
        f"than {length}; {remedy}"
    )
    require(flat, key, steps("masks.start") + steps(key) <= plan.total_steps, problem)
    for key in _PERIODS:
        long_enough = not flat[key] or steps(key) >= 1
        require(flat, key, long_enough, "is less than one step; make it longer")


def check_devices(config: ConfigDict, num_devices: int, num_processes: int = 1) -> None:
    """Checks that the mesh fits the devices, and batches and model the mesh.

    Args:
      config: of the run.
      num_devices: of all processes, as many of each.
      num_processes: of the run.

    Raises:
      UserError: if one does not.
    """
    flat = flatten(config)
    data, fsdp, tensor = (flat[f"mesh.{axis}"] for axis in ("data", "fsdp", "tensor"))
    problem = f"and mesh.tensor={tensor} do not divide the {num_devices} devices; lower one of them"
    require(flat, "mesh.fsdp", num_devices % (fsdp * tensor) == 0, problem)
    left = num_devices // (fsdp * tensor)
    problem = f"x mesh.fsdp={fsdp} x mesh.tensor={tensor} is not {num_devices}, the devices; use 0"
    require(flat, "mesh.data", data in (0, left), problem)
    of_process = num_devices // num_processes
    problem = f"does not divide the {of_process} devices of a process, which shares its images"
    require(flat, "mesh.tensor", num_processes == 1 or of_process % tensor == 0, problem)
    hidden = int(flat["model.width"] * flat["model.mlp_ratio"])
    prototypes = flat["head.prototypes"], flat["head.patch_prototypes"]
    parts = [("model.heads", flat["model.heads"]), ("hidden units of the MLPs", hidden)]
    parts += [("head.prototypes", prototypes[0]), ("head.patch_prototypes", prototypes[1])]
    for name, number in parts:
        problem = f"does not divide {name}, {number}; use a number that does"
        require(flat, "mesh.tensor", number % tensor == 0, problem)
    spread = num_devices // tensor
    for key in ("batch_size", "knn.batch_size") if config.knn.every else ("batch_size",):
        nearest = max(round(flat[key] / spread), 1) * spread
        problem = f"is not divisible by the {spread} devices; {nearest} is"
        require(flat, key, flat[key] % spread == 0, problem)
    rows = config.batch_size // spread
    problem = f"does not divide the {rows} images of a batch on each device; use a number that does"
    require(flat, "grad_accum_steps", rows % config.grad_accum_steps == 0, problem)


def _check_lengths(flat: dict[str, Any]) -> None:
    channels = flat["data.channels"]
    for keys, length, words in (
        (_keys(_PAIRS), 2, "two entries"),
        (_keys(_VIEW_KINDS), 3, "three entries: global view 1, other global views, local views"),
        (("data.mean", "data.std"), channels, f"data.channels={channels} entries"),
    ):
        for key in keys:
            require(flat, key, len(flat[key]) == length, f"needs {words}")


def _check_values(flat: dict[str, Any]) -> None:
    for key, choices in _CHOICES.items():
        require(flat, key, flat[key] in choices, f"is unknown; use {' or '.join(choices)}")
    for table, holds, words in (
        (_POSITIVE, lambda x: x > 0, "must be above 0"),
        (_NOT_NEGATIVE, lambda x: x >= 0, "must not be negative"),
        (_SHARES, lambda x: 0 <= x <= 1, "must lie between 0 and 1"),
    ):
        for key in _keys(table):
            require(flat, key, all(map(holds, entries(flat[key]))), words)
    for key in _keys(_DURATIONS):
        if flat[key] or key != "knn.every":
            number, _ = parse_duration(key, flat[key])
            require(flat, key, math.isfinite(number), "is not finite; give a number")


def _check_model(flat: dict[str, Any]) -> None:
    width, heads = flat["model.width"], flat["model.heads"]
    problem = f"does not divide model.width={width}; use a number of heads that does"
    require(flat, "model.heads", width % heads == 0, problem)
    require(flat, "model.drop_path", 0 <= flat["model.drop_path"] < 1, "must be in [0, 1)")
    possible = flat["model.kernels"] in ("auto", "xla") or flat["dtype"] == "bfloat16"
    problem = f'needs dtype="bfloat16", not {flat["dtype"]!r}; use "auto"'
    require(flat, "model.kernels", possible, problem)
    for key in ("head.prototypes", "head.patch_prototypes"):
        require(flat, key, flat[key] >= 2, "must be at least 2")
    same = flat["head.prototypes"] == flat["head.patch_prototypes"]
    problem = (
        f"differs from head.prototypes={flat['head.prototypes']}, but a shared last layer has one "
        "number of outputs; make them equal, or set head.shared and head.shared_teacher to false"
    )
    shared = flat["head.shared"] or flat["head.shared_teacher"]
    require(flat, "head.patch_prototypes", same or not shared, problem)
    weight = flat["loss.class_weight"] + flat["loss.patch_weight"]
    problem = "and loss.patch_weight are both 0; make one of them positive"
    require(flat, "loss.class_weight", weight > 0, problem)


def _check_masks(flat: dict[str, Any]) -> None:
    key, ratios, variances = "masks.ratios", flat["masks.ratios"], flat["masks.variances"]
    problem = f"and masks.variances={variances!r} need as many entries, at least one"
    require(flat, key, 0 < len(ratios) == len(variances), problem)
    for ratio, variance in zip(ratios, variances, strict=True):
        problem = (
            f"has {ratio} below its variance {variance}, so that a view could draw a negative "
            "ratio; raise the ratio or lower masks.variances"
        )
        require(flat, key, ratio >= variance, problem)
        problem = (
            f"has {ratio} which with its variance {variance} passes 1; lower it or masks.variances"
        )
        require(flat, key, ratio + variance <= 1, problem)


def _check_views(flat: dict[str, Any]) -> None:
    global_size, patch = flat["data.global_size"], flat["model.patch_size"]
    num_local = flat["data.local_views"]
    for key in ("data.global_size", "data.local_size") if num_local else ("data.global_size",):
        divisible = all(side > 0 and side % patch == 0 for side in flat[key])
        problem = f"must be positive and divisible by model.patch_size={patch}"
        require(flat, key, divisible, problem)
    problem = f"and data.local_views={num_local} make one view; the class loss compares two"
    require(flat, "data.global_views", flat["data.global_views"] + num_local >= 2, problem)
    for name in ("global_scale", "local_scale", "aspect", "blur_radius"):
        low, high = flat[f"data.{name}"]
        require(flat, f"data.{name}", 0 < low <= high, "must be 0 < low <= high")
        if name.endswith("scale"):
            require(flat, f"data.{name}", high <= 1, "must not pass 1, the whole image")
    require(flat, "data.hue", 0 <= flat["data.hue"] <= 0.5, "must lie between 0 and 0.5")
    problem = (
        f"is smaller than data.global_size={global_size}, which is cropped from it; enlarge it, "
        'or turn evaluations off with knn.every=""'
    )
    large_enough = not flat["knn.every"] or flat["knn.resize"] >= max(global_size)
    require(flat, "knn.resize", large_enough, problem)
