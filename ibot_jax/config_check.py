"""Checks of a config, before anything compiles: all mistakes at once, in one line.

A sentence names the key, the value found, and what would do. What a key takes by itself stands
with the key (`defaults`); here is what several of them must have in common.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from ibot_jax.config import Plan
from ibot_jax.config_rules import (
    Flat,
    config_problems,
    periods_too_short,
    refuse,
    run_too_short,
    share_of_run,
    stated,
)
from ibot_jax.data.workers import num_cores
from ibot_jax.defaults import KEYS

_PERIODS = ("log_every", "knn.every", "checkpoint.every")  # what happens again and again
_MOST_WORKERS_PER_CORE = 16


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
      UserError: with all mistakes.
    """
    refuse(config_problems(flatten(config), KEYS, _CHECKS))


def check_plan(config: ConfigDict, plan: Plan) -> None:
    """Checks the durations that need the size of the data.

    Raises:
      UserError: with all mistakes.
    """
    flat = flatten(config)
    refuse([*_too_late(flat, plan), *periods_too_short(flat, _PERIODS, plan)])


def check_devices(config: ConfigDict, num_devices: int, num_processes: int = 1) -> None:
    """Checks that the mesh fits the devices, and batches and model the mesh.

    Args:
      config: of the run.
      num_devices: of all processes, as many of each.
      num_processes: of the run.

    Raises:
      UserError: with all mistakes.
    """
    refuse(_device_problems(flatten(config), num_devices, num_processes))


def _device_problems(flat: Flat, num_devices: int, num_processes: int) -> Iterator[str]:
    data, fsdp, tensor = (flat[f"mesh.{axis}"] for axis in ("data", "fsdp", "tensor"))
    if num_devices % (fsdp * tensor):
        yield stated(
            flat,
            "mesh.fsdp",
            f"and mesh.tensor={tensor} do not divide the {num_devices} devices; lower one of them",
        )
        return
    left = num_devices // (fsdp * tensor)
    if data not in (0, left):
        problem = f"x mesh.fsdp={fsdp} x mesh.tensor={tensor} is not {num_devices}, the devices"
        yield stated(flat, "mesh.data", f"{problem}; use 0")
    of_process = num_devices // num_processes
    if num_processes > 1 and of_process % tensor:
        problem = f"does not divide the {of_process} devices of a process, which shares its images"
        yield stated(flat, "mesh.tensor", problem)
    hidden = int(flat["model.width"] * flat["model.mlp_ratio"])
    for name, number in (
        ("model.heads", flat["model.heads"]),
        ("hidden units of the MLPs", hidden),
        ("head.prototypes", flat["head.prototypes"]),
        ("head.patch_prototypes", flat["head.patch_prototypes"]),
    ):
        if number % tensor:
            problem = f"does not divide {name}, {number}; use a number that does"
            yield stated(flat, "mesh.tensor", problem)
    spread = num_devices // tensor
    for key in ("batch_size", "knn.batch_size") if flat["knn.every"] else ("batch_size",):
        if flat[key] % spread:
            nearest = max(round(flat[key] / spread), 1) * spread
            yield stated(flat, key, f"is not divisible by the {spread} devices; {nearest} is")
    rows = flat["batch_size"] // spread
    if flat["batch_size"] % spread == 0 and rows % flat["grad_accum_steps"]:
        problem = f"does not divide the {rows} images of a batch on each device"
        yield stated(flat, "grad_accum_steps", f"{problem}; use a number that does")


def _too_late(flat: Flat, plan: Plan | None = None) -> Iterator[str]:
    """Yields a sentence if a run ends before what should be over by then."""

    def share(key):
        return share_of_run(flat, key, plan)

    late = {
        key: 1.0
        for key in ("optim.warmup", "optim.freeze_last_layer", "masks.start")
        if share(key) >= 1
    }
    wait = share("masks.start")  # and so long the temperature of patches waits, too
    if wait < 1 < wait + share("loss.teacher_temp_warmup"):
        late |= {"masks.start": 1.0} if wait else {}
        late["loss.teacher_temp_warmup"] = 1 - wait
    yield from run_too_short(flat, KEYS, late, plan)


def _check_lengths(flat: Flat) -> Iterator[str]:
    channels = flat["data.channels"]
    for key in ("data.mean", "data.std"):
        if len(flat[key]) != channels:
            yield stated(flat, key, f"needs data.channels={channels} entries")


def check_workers(flat: Flat) -> Iterator[str]:
    """Yields a sentence if there are far more processes than cores."""
    cores = num_cores()
    if flat["data.workers"] > cores * _MOST_WORKERS_PER_CORE:
        problem = (
            f"is more than {_MOST_WORKERS_PER_CORE} for each of the {cores} cores there are; use 0 "
            "for one a core"
        )
        yield stated(flat, "data.workers", problem)


def check_rates(flat: Flat) -> Iterator[str]:
    """Yields a sentence if the learning rate would rise where it is meant to fall."""
    peak = flat["optim.lr"] * flat["batch_size"] / 256
    if flat["optim.min_lr"] > peak * (1 + 1e-6):
        problem = (
            f"is above the learning rate that it ends, optim.lr={flat['optim.lr']} x batch_size / "
            f"256 = {peak:.4g}; lower the one or raise the other"
        )
        yield stated(flat, "optim.min_lr", problem)


def _check_heads(flat: Flat) -> Iterator[str]:
    width = flat["model.width"]
    if width % flat["model.heads"]:
        problem = f"does not divide model.width={width}; use a number of heads that does"
        yield stated(flat, "model.heads", problem)


def _check_mlp(flat: Flat) -> Iterator[str]:
    width = flat["model.width"]
    if width * flat["model.mlp_ratio"] < 1:
        problem = f"of model.width={width} leaves no hidden unit; use at least {1 / width:.3g}"
        yield stated(flat, "model.mlp_ratio", problem)


def _check_kernels(flat: Flat) -> Iterator[str]:
    if flat["model.kernels"] not in ("auto", "xla") and flat["dtype"] != "bfloat16":
        problem = f'needs dtype="bfloat16", not {flat["dtype"]!r}; use "auto"'
        yield stated(flat, "model.kernels", problem)


def _check_prototypes(flat: Flat) -> Iterator[str]:
    same = flat["head.prototypes"] == flat["head.patch_prototypes"]
    if (flat["head.shared"] or flat["head.shared_teacher"]) and not same:
        problem = (
            f"differs from head.prototypes={flat['head.prototypes']}, but a shared last layer has "
            "one number of outputs; make them equal, or set head.shared and head.shared_teacher "
            "to false"
        )
        yield stated(flat, "head.patch_prototypes", problem)


def _check_losses(flat: Flat) -> Iterator[str]:
    if not flat["loss.class_weight"] + flat["loss.patch_weight"]:
        problem = "and loss.patch_weight are both 0; make one of them positive"
        yield stated(flat, "loss.class_weight", problem)


def _check_masks(flat: Flat) -> Iterator[str]:
    key, ratios, variances = "masks.ratios", flat["masks.ratios"], flat["masks.variances"]
    if not 0 < len(ratios) == len(variances):
        problem = f"and masks.variances={variances!r} need as many entries, at least one"
        yield stated(flat, key, problem)
        return
    for ratio, variance in zip(ratios, variances, strict=True):
        if ratio < variance:
            problem = (
                f"has {ratio} below its variance {variance}, so that a view could draw a negative "
                "ratio; raise the ratio or lower masks.variances"
            )
            yield stated(flat, key, problem)
        if ratio + variance > 1:
            problem = (
                f"has {ratio} which with its variance {variance} passes 1; lower it or "
                "masks.variances"
            )
            yield stated(flat, key, problem)


def _check_global_size(flat: Flat) -> Iterator[str]:
    yield from _whole_patches(flat, "data.global_size")


def _check_local_size(flat: Flat) -> Iterator[str]:
    if flat["data.local_views"]:
        yield from _whole_patches(flat, "data.local_size")


def _whole_patches(flat: Flat, key: str) -> Iterator[str]:
    patch = flat["model.patch_size"]
    if any(side % patch for side in flat[key]):
        yield stated(flat, key, f"must be divisible by model.patch_size={patch}")


def _check_views(flat: Flat) -> Iterator[str]:
    num_local = flat["data.local_views"]
    if flat["data.global_views"] + num_local < 2:
        problem = f"and data.local_views={num_local} make one view; the class loss compares two"
        yield stated(flat, "data.global_views", f"{problem}; raise one of them")


def _check_resize(flat: Flat) -> Iterator[str]:
    size = flat["data.global_size"]
    if flat["knn.every"] and flat["knn.resize"] < max(size):
        problem = (
            f"is smaller than data.global_size={size}, which is cropped from it; enlarge it, or "
            'turn evaluations off with knn.every=""'
        )
        yield stated(flat, "knn.resize", problem)


_CHECKS = (
    _too_late,
    _check_lengths,
    check_workers,
    check_rates,
    _check_heads,
    _check_mlp,
    _check_kernels,
    _check_prototypes,
    _check_losses,
    _check_masks,
    _check_global_size,
    _check_local_size,
    _check_views,
    _check_resize,
)
