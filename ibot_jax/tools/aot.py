"""Compiles the training step for a TPU pod that is not there, and tells what the compiler says.

    python -m ibot_jax.tools.aot --config=configs/vitb16.py --topology=v5e:16x16 [--batch=1024]

Memory of a chip, time of a step, collectives, images a second, hours of the whole schedule: all of
them the compiler's figures for one chip, not a measurement. Input, evaluations and checkpoints
come on top. Needs the TPU compiler, `pip install 'ibot-jax[aot]'`, best in an environment of its
own. Exit code 0; 1 when the step does not fit the chip's memory; 2 for a mistake.
"""

import importlib.util
import json
import os
import pathlib
import re
import sys
import time

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from ibot_jax import models, sharding
from ibot_jax.command_line import OneLineParser, add_config_argument, parse_config
from ibot_jax.config import Plan, make_plan
from ibot_jax.config_check import check_config, check_devices, check_plan
from ibot_jax.errors import UserError
from ibot_jax.step import make_init, make_train_step
from ibot_jax.tools import flops
from ibot_jax.tools.bench_step import make_views
from ibot_jax.tools.tpu_program import CHIPS, Chip, read_program

_IMAGENET = 1_281_167


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = OneLineParser(
        prog="python -m ibot_jax.tools.aot", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add_config_argument(parser)
    parser.add_argument("--topology", required=True, help="such as v5e:16x16, v4:4x4x4, v5p:4x4x4")
    parser.add_argument("--batch", type=int, help="images a step, over all chips")
    parser.add_argument("--images", type=int, default=_IMAGENET, help="in the data (ImageNet-1k's)")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    try:
        arguments, overrides = parser.parse_known_args(argv)
        config = parse_config(
            ["aot", f"--config={arguments.config}", *overrides], flags.FlagValues()
        )
        if arguments.batch is not None:
            config.batch_size = arguments.batch
        config.knn.every = ""  # nothing is evaluated, nor checked for it
        check_config(config)
        report = {"config": arguments.config, "overrides": overrides}
        report |= compile_ahead(config, arguments.topology, arguments.images)
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(table(report))
    return 0 if report["fits"] else 1


def pod_mesh(topology: str) -> jax.sharding.Mesh:
    """Returns the mesh of a pod that is not there.

    Raises:
      UserError: if the compiler is not installed, or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is missing; pip install 'ibot-jax[aot]'")
    # No TPU VM to ask about itself, nor to complain about.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
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
    return sharding.make_mesh(pod.devices)


def compile_ahead(config: ConfigDict, topology: str, images: int) -> dict:
    """Compiles the step of a config for a pod.

    Args:
      config: checked.
      topology: the pod's, by the compiler's name.
      images: in the data, for the length of the schedule.

    Returns:
      What was found, as JSON has it: sizes in bytes, times in seconds.

    Raises:
      UserError: if config and pod do not go together.
    """
    mesh = pod_mesh(topology)
    check_devices(config, mesh.size)
    plan = make_plan(config, images)
    check_plan(config, plan)
    kind = mesh.devices.flat[0].device_kind
    report = {
        "topology": topology,
        "chip": kind,
        "chips": mesh.size,
        "batch_size": config.batch_size,
        "steps": plan.total_steps,
        "memory_of_chip": CHIPS[kind].memory,
    }
    start = time.perf_counter()
    lowered = _lower(config, plan, mesh)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+)([GM]) of", str(error))
        unit = {"G": 2**30, "M": 2**20}
        needed = float(used[1]) * unit[used[2]] if used else None
        return report | {"fits": False, "memory": {"needed": needed}}
    planned = compiled.memory_analysis()
    memory = {
        "state_and_batch": planned.argument_size_in_bytes,
        "temporaries": planned.temp_size_in_bytes,
        "program": planned.generated_code_size_in_bytes,
    }
    return report | {
        "fits": True,
        "memory": memory,
        "compile_seconds": time.perf_counter() - start,
        **_time(config, compiled, CHIPS[kind], mesh.size, plan.total_steps),
    }


def _lower(config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """Traces the step that pretraining runs, on shapes only."""
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def shapes(tree, layout):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), tree)

    one = config.copy_and_resolve_references()
    one.batch_size = 1
    images = make_views(one, np.random.default_rng(0))
    images["masks"] = np.zeros((1, config.data.global_views, *models.patch_grid(config)), bool)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype), images
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(make_init(config, plan), key)
    train_step = jax.jit(make_train_step(config, plan, mesh), donate_argnums=0, out_shardings=whole)
    return train_step.lower(shapes(state, whole), shapes(batch, rows), shapes(key, whole))


def _time(
    config: ConfigDict, compiled: jax.stages.Compiled, chip: Chip, chips: int, steps: int
) -> dict:
    """Relates the compiler's estimate of a step's time to the work in it."""
    program = read_program(compiled.as_text())
    # Rings move each byte twice past each chip; an estimate of what the compiler leaves open.
    link_seconds = 2 * sum(program.collectives.values()) / chip.link if chips > 1 else 0.0
    seconds = program.cycles / chip.clock + link_seconds
    model_flops = flops.total(flops.step_flops(config)) * config.batch_size / chips
    costs = compiled.cost_analysis()
    return {
        "cycles": program.cycles,
        "link_seconds": link_seconds,
        "step_seconds": seconds,
        "images_per_second": config.batch_size / seconds,
        "model_flops": model_flops,
        "compiler_flops": costs["flops"],
        "compiler_bytes": costs["bytes accessed"],
        "mfu_bound": model_flops / seconds / chip.peak,
        "collectives": program.collectives,
        "not_estimated": program.not_estimated,
        "hours": steps * seconds / 3600,
        "chip_hours": steps * seconds / 3600 * chips,
    }


def table(report: dict) -> str:
    """Returns the lines that show a report of `compile_ahead`."""

    def gib(size):
        return f"{size / 2**30:.2f} GiB"

    rows = [
        ("config", " ".join([report["config"], *report["overrides"]])),
        ("pod", f"{report['topology']}: {report['chips']} x {report['chip']}"),
        ("batch", f"{report['batch_size']}, {report['batch_size'] / report['chips']:g} a chip"),
    ]
    memory, capacity = report["memory"], gib(report["memory_of_chip"])
    if not report["fits"]:
        needed = f"needs {gib(memory['needed'])}, " if memory["needed"] else ""
        advice = "a smaller --batch, grad_accum_steps, or model.remat=blocks"
        rows.append(("memory", f"DOES NOT FIT: {needed}a chip has {capacity}; {advice}"))
    else:
        rows += [
            ("memory", f"{gib(sum(memory.values()))} of {capacity} a chip: it fits"),
            *((f"  {name.replace('_', ' ')}", gib(size)) for name, size in memory.items()),
            (
                "step",
                f"{1e3 * report['step_seconds']:.2f} ms: {report['cycles']:,} cycles and "
                f"{1e3 * report['link_seconds']:.2f} ms on the links between chips",
            ),
            ("speed", f"{report['images_per_second']:,.0f} images/s, the whole pod"),
            (
                "FLOPs of a chip",
                f"{report['model_flops'] / 1e12:.3f} T by the model, "
                f"{report['compiler_flops'] / 1e12:.3f} T by the compiler, loops once",
            ),
            ("bytes of a chip", gib(report["compiler_bytes"])),
            ("utilisation", f"{100 * report['mfu_bound']:.1f} % MFU at most"),
            *(
                (f"  {kind}", f"{size / 2**20:.1f} MiB")
                for kind, size in report["collectives"].items()
            ),
            (
                "schedule",
                f"{report['steps']:,} steps, {report['hours']:.1f} hours, "
                f"{report['chip_hours']:,.0f} chip-hours",
            ),
        ]
    rows.append(("note", "the compiler's figures, not a measurement; input and k-NN come on top"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
