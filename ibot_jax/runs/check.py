"""Checks of a run's config, before anything compiles: all mistakes at once, in one line.

A sentence names the key, the value found, and what would do. What a key takes by itself stands
with the key (`config.defaults`), what several have in common in `config.relations` and, of models,
in `models.relations`; here is what depends on the data and the devices, too.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from ibot_jax.config import relations as of_runs
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import (
    Flat,
    config_problems,
    noted,
    periods_too_short,
    refuse,
    run_too_short,
    share_of_run,
    stated,
)
from ibot_jax.models import relations as of_models

RELATIONS = (*of_runs.RELATIONS, *of_models.RELATIONS)
_PERIODS = ("log_every", "knn.every", "checkpoint.every")  # what happens again and again


def check_config(config: ConfigDict) -> None:
    """Checks all that can be known without data and devices.

    Raises:
      UserError: with all mistakes.
    """
    refuse(config_problems(flatten(config), KEYS, (*RELATIONS, too_late)))


def check_plan(config: ConfigDict, plan: Plan) -> None:
    """Checks the durations that need the size of the data.

    Raises:
      UserError: with all mistakes.
    """
    refuse(_plan_problems(flatten(config), plan))


def _plan_problems(flat: Flat, plan: Plan) -> Iterator[str]:
    yield from too_late(flat, plan)
    yield from periods_too_short(flat, _PERIODS, plan)


def length_problems(
    config: ConfigDict, num_examples: int, *, multiple: int = 1, flat: Flat | None = None
) -> list[str]:
    """Returns what is wrong with batch and durations, given the size of the data.

    Args:
      config: of the run.
      num_examples: to train on.
      multiple: what the batch size has to be a multiple of.
      flat: the keys that may be looked at; all of them if it is not given.
    """
    found, plan = [], None
    with noted(found):
        plan = make_plan(config, num_examples, multiple=multiple)
    if plan is None and 0 < num_examples < config.batch_size:
        largest = config.copy_and_resolve_references()
        largest.batch_size = num_examples  # the other mistakes of a batch that would do
        with noted(found):
            plan = make_plan(largest, num_examples)
    flat = flatten(config) if flat is None else flat
    return found + (list(_plan_problems(flat, plan)) if plan else [])


def check_devices(config: ConfigDict, num_devices: int, num_processes: int = 1) -> None:
    """Checks that the mesh fits the devices, and batches and model the mesh.

    Raises:
      UserError: with all mistakes.
    """
    refuse(device_problems(config, num_devices, num_processes))


def device_problems(config: ConfigDict, num_devices: int, num_processes: int = 1) -> Iterator[str]:
    """Yields where mesh and devices, or batches or model and mesh do not fit together.

    Args:
      config: of the run.
      num_devices: of all processes, as many of each.
      num_processes: of the run.
    """
    flat = flatten(config)
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
    for name, number in of_models.split_over_tensor(flat):
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


def too_late(flat: Flat, plan: Plan | None = None) -> Iterator[str]:
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
