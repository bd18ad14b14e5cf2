"""Checks of a run's config, before anything compiles: all mistakes at once, in one line.

A sentence names the key, the value found, and what would do. What a key takes by itself stands
with the key (`config.defaults`), what several have in common in `config.relations` and, of models,
in `models.relations`; here is what depends on the data and the devices, too.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from ibot_jax.config import globs
from ibot_jax.config import relations as of_runs
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, flatten, section
from ibot_jax.config.open_keys import open_keys
from ibot_jax.config.plan import Plan, make_plan
from ibot_jax.config.problems import (
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
# What happens again and again, and what happens in a part of the run.
_PERIODS = ("log_every", "knn.every", "checkpoint.every", "gram.every", "high_res.last")


def check_config(config: ConfigDict) -> None:
    """Checks all that can be known without data and devices.

    Raises:
      UserError: with all mistakes.
    """
    refuse(config_problems(flatten(config), KEYS, (*RELATIONS, too_late)))


def problems_at_hand(flat: Flat, wrong: bool) -> list[str]:
    """Returns all that is wrong as far as it can be known without devices.

    Once something is wrong, data on this host is looked at for what else is.

    Args:
      flat: the config.
      wrong: whether something is already, beside the config.
    """
    unknown = open_keys(flat) if flat.get("init_from") else ()
    found = config_problems(flat, KEYS, (*RELATIONS, too_late), unknown=unknown)
    if found or wrong:
        found = config_problems(flat, KEYS, (*RELATIONS, _check_data), unknown=unknown)
    return found


def _check_data(flat: Flat) -> Iterator[str]:
    """Opens the data, where that takes neither TensorFlow nor a network."""
    for key in ("batch_size", "duration"):  # where one is wrong, that is all there is to say
        flat[key]
    sources = flat["data.mixture"] or flat["data.source"]
    if "tfds:" in sources or "://" in sources:
        yield from too_late(flat)
        return
    # Not needed where nothing is wrong.
    from ibot_jax.data.sources.mixture import epoch_length, open_training

    found = []
    with noted(found):
        source = open_training(section(flat, "data"))
        found += length_problems(flat, epoch_length(source))
    yield from found


def check_plan(config: ConfigDict, plan: Plan) -> None:
    """Checks the durations that need the size of the data.

    Raises:
      UserError: with all mistakes.
    """
    refuse(_plan_problems(flatten(config), plan))


def _plan_problems(flat: Flat, plan: Plan) -> Iterator[str]:
    yield from too_late(flat, plan)
    yield from periods_too_short(flat, _PERIODS, plan)


def length_problems(flat: Flat, num_examples: int, *, multiple: int = 1) -> list[str]:
    """Returns what is wrong with batch and durations, given the size of the data.

    Args:
      flat: the config.
      num_examples: to train on.
      multiple: what the batch size has to be a multiple of.
    """
    found, plan = [], None
    with noted(found):
        plan = make_plan(section(flat, ""), num_examples, multiple=multiple)
    if plan is None and 0 < num_examples < flat["batch_size"]:
        largest = {**flat, "batch_size": num_examples}  # the other mistakes of one that would do
        with noted(found):
            plan = make_plan(section(largest, ""), num_examples)
    return found + (list(_plan_problems(flat, plan)) if plan else [])


def check_devices(config: ConfigDict, num_devices: int, num_processes: int = 1) -> None:
    """Checks that the mesh fits the devices, and batches and model the mesh.

    Raises:
      UserError: with all mistakes.
    """
    refuse(device_problems(flatten(config), num_devices, num_processes))


def device_problems(flat: Flat, num_devices: int, num_processes: int = 1) -> Iterator[str]:
    """Yields where mesh and devices, or batches or model and mesh do not fit together.

    Args:
      flat: the config.
      num_devices: of all processes, as many of each.
      num_processes: of the run.
    """
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
    rows, group = flat["batch_size"] // spread, flat["loss.koleo_group"]
    if flat["loss.koleo_weight"] and group and rows and rows % group and group % rows:
        problem = f"neither divides the {rows} images of a batch on each device, nor is a multiple"
        yield stated(flat, "loss.koleo_group", f"{problem}; use {rows}")
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
    if flat["gram.weight"] and share("gram.start") >= 1:
        late["gram.start"] = 1.0
    warmup = share("optim.warmup")
    if warmup < 1 < warmup + share("optim.cooldown"):
        late["optim.cooldown"] = 1 - warmup
    wait = share("masks.start")  # and so long the temperature of patches waits, too
    if wait < 1 < wait + share("loss.teacher_temp_warmup"):
        late |= {"masks.start": 1.0} if wait else {}
        late["loss.teacher_temp_warmup"] = 1 - wait
    yield from run_too_short(flat, KEYS, late, plan)
    if flat.get("high_res.last") and share("high_res.last") > 1:
        problem = f"is longer than the run, {flat['duration']!r}"
        yield stated(flat, "high_res.last", f'{problem}; use up to "100%"')
    for glob, text in globs.parse(flat["optim.freeze"]):
        if share_of_run({**flat, "optim.freeze": text}, "optim.freeze", plan) > 1:
            problem = f"freezes {glob} for longer than the run, {flat['duration']!r}"
            yield stated(flat, "optim.freeze", f'{problem}; use up to "100%"')
