"""Compiles the training step for a TPU pod that is not there; `aot` is its command line."""

import atexit
import functools
import importlib.util
import math
import os
import pathlib
import re
import tempfile
import time

import jax
from jax.experimental import topologies

from ibot_jax.config.high_res import largest_views
from ibot_jax.config.masking import masked_share
from ibot_jax.config.plan import make_plan
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import device_of
from ibot_jax.methods.comparison import masked_capacity
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.models.architectures import geometry_of
from ibot_jax.parallel.layouts import num_shards
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.check import check_devices, check_plan
from ibot_jax.runs.training import jit_train_step, own_gram_teacher, step_arguments
from ibot_jax.screen.progress import busy
from ibot_jax.tools import flops
from ibot_jax.tools.pods.chips import CHIPS, Chip
from ibot_jax.tools.pods.tpu_program import Program, read_program, read_schedules, schedule_flags


def pod_devices(topology: str) -> list[jax.Device]:
    """Returns the chips of a pod that is not there.

    Raises:
      UserError: if the compiler is not installed, or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is missing; pip install 'ibot-jax[aot]'")
    # No TPU VM to ask about itself, nor to complain about.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ["LIBTPU_INIT_ARGS"] = schedule_flags(_schedules())
    jax.config.update("jax_platforms", "cpu")
    try:
        # Chips of a three-dimensional torus have two cores, which act as one device.
        cores = "megacore" if topology.count("x") == 2 else "default"
        pod = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=cores
        )
    except Exception as error:  # the compiler raises several kinds
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology={topology}: {reason}; write it as v5e:16x16 or v5p:4x4x4"
        ) from error
    return list(pod.devices)


@functools.cache
def _schedules() -> pathlib.Path:
    """Returns the folder for the schedules of kernels, which goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="ibot_jax_schedules_")
    atexit.register(folder.cleanup)
    return pathlib.Path(folder.name)


def compile_ahead(config: Section, devices: list[jax.Device], images: int) -> dict:
    """Compiles the step of a config for a pod, where views are largest.

    Args:
      config: of the run, checked.
      devices: of `pod_devices`.
      images: in the data, for the length of the schedule.

    Returns:
      What was found, as JSON has it: sizes in bytes, times in seconds. `memory` of a chip is by
      kind; where the step does not fit, its temporaries are None if the compiler does not tell.

    Raises:
      UserError: if config and pod do not go together.
    """
    check_devices(config, len(devices))
    mesh = make_mesh(devices, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    plan = make_plan(config, images)
    check_plan(config, plan)
    kind = devices[0].device_kind
    data = largest_views(config.high_res, config.data)
    report = {
        "chip": kind,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "global_size": list(data.global_size),
        "steps": plan.total_steps,
        "memory_of_chip": CHIPS[kind].memory,
    }
    start = time.perf_counter()
    state, batch, key = step_arguments(config, plan, mesh, data=data)
    kernels = choose(config.model.kernels, device_of(mesh))  # as after a check that all passed
    lowered = jit_train_step(config, plan, mesh, kernels).lower(
        state, batch, key, own_gram_teacher(config, state)
    )
    try:
        with busy("compiling"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return report | {"fits": False, "memory": _memory_wanted(state, batch, str(error))}
    return report | {
        "fits": True,
        "memory": _memory(state, batch, compiled),
        "compile_seconds": time.perf_counter() - start,
        **_time(config, compiled, CHIPS[kind], mesh, plan.total_steps),
    }


def _memory(state: TrainState, batch: dict, compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes on a chip by kind."""
    kinds = _arguments_by_kind(state, batch)
    planned = compiled.memory_analysis()
    return kinds | {
        "padding": planned.argument_size_in_bytes - sum(kinds.values()),
        "temporaries": planned.temp_size_in_bytes,
        "program": planned.generated_code_size_in_bytes,
    }


def _memory_wanted(state: TrainState, batch: dict, refusal: str) -> dict[str, int | None]:
    """Returns the bytes by kind that a chip would have to have."""
    kinds = _arguments_by_kind(state, batch)
    total = bytes_needed(refusal)
    return kinds | {"temporaries": None if total is None else total - sum(kinds.values())}


def bytes_needed(refusal: str) -> int | None:
    """Returns the bytes that a program needs on a chip, None if the compiler does not tell.

    Args:
      refusal: what the TPU compiler says of a program that does not fit. Of its two ways to say so
        the one speaks of temporaries, but counts arguments and results in.
    """
    found = re.search(r"(?:HLO temporaries \(|Used )([\d.]+)([KMGT])\b", refusal)
    return found and int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])))


def _arguments_by_kind(state: TrainState, batch: dict) -> dict[str, int]:
    def own(tree) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    teacher = own(teacher_params(state))
    return {
        "student": own(state.params),
        "teacher": teacher,
        "moments": own(state.opt_state) - teacher,
        "batch": own(batch),
    }


def _time(
    config: Section,
    compiled: jax.stages.Compiled,
    chip: Chip,
    mesh: jax.sharding.Mesh,
    steps: int,
) -> dict:
    """Relates the compiler's estimate of a step's time to the work in it."""
    turns = _turns(config, mesh)
    program = read_program(compiled.as_text(), mesh.shape, read_schedules(_schedules()), turns)
    by_cost = costs(program, chip)
    seconds = sum(by_cost.values())
    by_part = flops.of_run(config)
    model_flops = flops.total(by_part) * config.batch_size / mesh.size
    counted = compiled.cost_analysis()
    return {
        "turns": turns,
        "cycles": program.cycles,
        "kernel_seconds": sum(kernel.seconds(chip) for kernel in program.kernels),
        "link_seconds": sum(moved.sent for moved in program.collectives) / chip.link,
        "step_seconds": seconds,
        "costs": by_cost,
        "images_per_second": config.batch_size / seconds,
        "model_flops": model_flops,
        "compiler_flops": counted["flops"],
        "compiler_bytes": counted["bytes accessed"],
        "intensity": counted["flops"] / counted["bytes accessed"],
        "intensity_of_chip": chip.peak / chip.bandwidth,
        "mfu_bound": model_flops / seconds / chip.peak,
        "collectives": [
            {"kind": c.kind, "axes": c.axes, "count": c.count, "bytes": c.size}
            for c in program.collectives
        ],
        "kernels": [
            {"name": k.name, "count": k.count, "steps": k.steps, "bundles": k.bundles}
            for k in program.kernels
        ],
        "not_estimated": {
            kind: {"count": number, "bytes": size}
            for kind, (number, size) in program.not_estimated.items()
        },
        "hours": steps * seconds / 3600,
        "chip_hours": steps * seconds / 3600 * mesh.size,
    }


def _turns(config: Section, mesh: jax.sharding.Mesh) -> int:
    """Returns the chunks in which a device compares its patch tokens: those that are expected."""
    share = (1.0, 0.0) if config.loss.visible_weight else masked_share(config.masks)
    patches = math.prod(geometry_of(config.model).grid(config.data.global_size))
    images = config.batch_size // (num_shards(mesh) * config.grad_accum_steps)
    views = images * config.data.global_views
    most = config.loss.max_logits * mesh.shape["tensor"] // config.head.patch_prototypes
    slots = masked_capacity(share, views, patches, most)
    return max(math.ceil(views * patches * share[0] / slots), 1)


def costs(program: Program, chip: Chip) -> dict[str, float]:
    """Returns the seconds of a step by what takes them, the largest first; their sum is the step.

    What the compiler estimates goes by part, Pallas kernels by name. Of the rest these are the
    least seconds: collectives as if none ran beside anything, by kind and axes, other operations by
    their bytes; of copies it is known which run beside others (copy-start): these cost nothing.
    """
    found = {part: cycles / chip.clock for part, cycles in program.parts.items()}
    found |= {kernel.name: kernel.seconds(chip) for kernel in program.kernels}
    for moved in program.collectives:
        found[f"{moved.kind} over {moved.axes or 'none'}"] = moved.sent / chip.link
    for kind, (_, size) in program.not_estimated.items():
        if not kind.endswith("-start"):
            found[f"{kind}, by its bytes"] = size / chip.bandwidth
    return dict(sorted(found.items(), key=lambda item: -item[1]))
