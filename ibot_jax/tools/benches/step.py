"""Times the training step on made-up batches, and counts its memory and arithmetic.

The step is the one that `ibot_jax.main` runs, compiled ahead of time, where views are largest
(`high_res`). Batches lie on the devices
already, so that nothing but the step is measured; they share their views, but not their masks.
"""

import argparse
import contextlib
import dataclasses
import functools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.flat import flatten
from ibot_jax.config.high_res import largest_views
from ibot_jax.config.masking import DEALT
from ibot_jax.config.plan import make_plan
from ibot_jax.config.problems import refuse
from ibot_jax.config.section import Section
from ibot_jax.data.draw.dealt_masks import deal, draw_dealt_mask
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.color_table import COLUMNS, JITTER, Color
from ibot_jax.kernels.devices import device_of
from ibot_jax.methods.state import TrainState
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import compute_dtype
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs.check import check_config, check_devices
from ibot_jax.runs.memory import memory_problems
from ibot_jax.runs.proof import prove
from ibot_jax.runs.training import jit_init, jit_train_step, own_gram_teacher
from ibot_jax.screen.progress import busy
from ibot_jax.tools import flops
from ibot_jax.tools.benches.step_table import table
from ibot_jax.tools.peak import device_peak

_BATCHES = 4  # different ones, taken in turns
_TRACED_STEPS = 3
_STEPS_PER_EPOCH = 1000  # of the plan that the schedules need; no speed depends on it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    flags.add(parser, "--batch-size", type=int, help="images a step, instead of the config's")
    parser.add_argument("--steps", type=int, default=10, help="steps to time (default: 10)")
    parser.add_argument(
        "--trace", metavar="DIR", help=f"also write a profiler's trace of {_TRACED_STEPS} steps"
    )
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = checked_config(args, jax.device_count())
    if args.steps < 1:
        raise UserError(f"--steps={args.steps} is less than one step")
    mesh = make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    _open_outputs(args)

    report = {"config": args.config, "overrides": args.overrides}
    with memory_is_enough(config.batch_size):
        report |= measure(config, mesh, steps=args.steps, trace=args.trace)
    print(table(report))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE if report["finite"] else exits.FAILED


def _open_outputs(args: argparse.Namespace) -> None:
    """Makes what is written to in the end, while a mistake costs nothing yet."""
    try:
        if args.trace:
            pathlib.Path(args.trace).mkdir(parents=True, exist_ok=True)
        if args.json:
            pathlib.Path(args.json).touch()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None


def _draw_views(
    data: Section, gram: Section, batch_size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws a batch as the pipeline would deliver it, but for its masks.

    Args:
      data: the config's section.
      gram: likewise.
      batch_size: images, B.
      rng: where the randomness comes from.

    Returns:
      `global_views` [B, G, H, W, C] and `local_views` [B, L, H', W', C], uint8; and with
      `data.augment="device"` `global_colors` [B, G, 12] and `local_colors` [B, L, 12], float32;
      with a gram teacher `gram_views`.
    """
    batch = {}
    for kind in ("global", "local"):
        shape = (batch_size, getattr(data, f"{kind}_views"))
        pixels = (*shape, *getattr(data, f"{kind}_size"), data.channels)
        batch[f"{kind}_views"] = rng.integers(0, 256, pixels, dtype=np.uint8)
        if data.augment == "device":
            batch[f"{kind}_colors"] = _draw_colors(rng, shape, data.blur_radius)
    if anchor_is_kept(gram):
        pixels = batch_size, data.global_views, *gram_size(gram, data), data.channels
        batch["gram_views"] = rng.integers(0, 256, pixels, dtype=np.uint8)
    return batch


def _draw_colors(
    rng: np.random.Generator, shape: tuple[int, int], blur_radius: tuple[float, float]
) -> np.ndarray:
    """Draws colours, [*shape, 12]; any will do, since every view goes through every operation."""
    rows = [
        Color(
            flip=True,
            jitter=tuple((JITTER[i], rng.random()) for i in rng.permutation(len(JITTER))),
            gray=False,
            blur_radius=rng.uniform(*blur_radius),
            solarize=True,
        ).row()
        for _ in range(math.prod(shape))
    ]
    return np.array(rows, np.float32).reshape(*shape, len(COLUMNS))


def _draw_masks(
    masks: Section, grid: tuple[int, int], shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draws masks [*shape, h, w] bool, on a grid of (h, w)."""
    views = math.prod(shape)
    if masks.kind in DEALT:
        steps = deal(rng, views, masks.share, masks.range)
        drawn = [draw_dealt_mask(rng, masks.kind, grid, step, masks.shift) for step in steps]
    else:
        drawn = [
            draw_mask(rng, masks.kind, grid, masks.ratios, masks.variances) for _ in range(views)
        ]
    return np.stack(drawn).reshape(*shape, *grid)


@dataclasses.dataclass
class Ready:
    """A compiled step, and what it is called with.

    Attributes:
      compiled: the program; it gives up the state that it is called with.
      state: of before the first step.
      batches: different ones, to be taken in turns.
      masks: theirs, [B, G, h, w] bool each.
      others: the arguments that come after state and batch.
      kernels: the kernels in use.
      trace_seconds: spent in tracing.
      compile_seconds: in compilation.
    """

    compiled: jax.stages.Compiled
    state: TrainState
    batches: list[dict[str, jax.Array]]
    masks: list[np.ndarray]
    others: tuple
    kernels: list[str]
    trace_seconds: float
    compile_seconds: float

    def run(self, steps: int) -> dict[str, jax.Array]:
        """Runs steps and waits for them; returns the metrics of the last."""
        for number in range(steps):
            batch = self.batches[number % len(self.batches)]
            self.state, metrics = self.compiled(self.state, batch, *self.others)
        return jax.block_until_ready(metrics)


def checked_config(args: argparse.Namespace, devices: int) -> Section:
    """Returns the config that a command names, fit for so many of this machine's devices.

    Raises:
      UserError: if it is wrong, or asks for other devices or more memory than there are.
    """
    config = given_config(args)
    if args.batch_size is not None:
        config.batch_size = args.batch_size
    config.knn.every = ""  # nothing is evaluated, nor checked for it
    check_config(config)
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    check_devices(config, devices)
    refuse(memory_problems(flatten(config)))
    return config


def get_ready(config: Section, mesh: jax.sharding.Mesh) -> Ready:
    """Makes a state and batches, and compiles the step.

    Args:
      config: of the run, checked.
      mesh: the devices.
    """
    rng = np.random.default_rng(config.seed)
    data = largest_views(config.high_res, config.data)
    views = to_global(_draw_views(data, config.gram, config.batch_size, rng), mesh)
    grid = geometry_of(config.model).grid(data.global_size)
    shape = config.batch_size, data.global_views
    masks = [_draw_masks(config.masks, grid, shape, rng) for _ in range(_BATCHES)]
    batches = [views | to_global({"masks": drawn}, mesh) for drawn in masks]
    plan = make_plan(config, _STEPS_PER_EPOCH * config.batch_size)
    key = jax.device_put(jax.random.key(config.seed), replicated(mesh))
    state = jit_init(config, plan, mesh)(key)
    frozen = jax.tree.map(jnp.copy, own_gram_teacher(config, state))

    proven = prove(
        functools.partial(jit_train_step, config, plan, mesh),
        [(state, batches[0], key, frozen)],
        choose(config.model.kernels, device_of(mesh)),
    )
    for text in proven.warnings().values():
        print(f"warning: {text}", file=sys.stderr)
    train_step = jit_train_step(config, plan, mesh, proven.kernels)
    start = time.perf_counter()
    lowered = train_step.lower(state, batches[0], key, frozen)
    traced = time.perf_counter()
    with busy("compiling"):
        compiled = lowered.compile()
    return Ready(
        compiled=compiled,
        state=state,
        batches=batches,
        masks=masks,
        others=(key, frozen),
        kernels=proven.used,
        trace_seconds=traced - start,
        compile_seconds=time.perf_counter() - traced,
    )


@contextlib.contextmanager
def memory_is_enough(batch_size: int) -> Iterator[None]:
    """Turns devices that are out of memory into a mistake of the user.

    Raises:
      UserError: in place of XLA's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"batch_size={batch_size} does not fit the devices' memory; use a smaller "
            "--batch-size, --config.grad_accum_steps above 1 or --config.model.remat=blocks"
        ) from error


def measure(
    config: Section, mesh: jax.sharding.Mesh, *, steps: int, trace: str | None = None
) -> dict:
    """Compiles and times the step.

    Args:
      config: of the run, checked.
      mesh: the devices.
      steps: how many to time.
      trace: folder for a profiler's trace, or None.

    Returns:
      What was found, as JSON has it: times in seconds, sizes in bytes and for each device, FLOPs
      as such.
    """
    ready = get_ready(config, mesh)
    parameters = {name: _size(tree) for name, tree in ready.state.params.items()}
    metrics, seconds = _time(ready, steps)
    if trace:
        with jax.profiler.trace(trace):
            metrics = ready.run(_TRACED_STEPS)
    data = largest_views(config.high_res, config.data)
    grid = geometry_of(config.model).grid(data.global_size)
    drawn = np.sum(ready.masks) / len(ready.masks) / config.batch_size
    return {
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "jax": jax.__version__,
        "dtype": config.dtype,
        "kernels": ready.kernels,
        "batch_size": config.batch_size,
        "global_size": list(data.global_size),
        "parameters": parameters,
        "trace_seconds": ready.trace_seconds,
        "compile_seconds": ready.compile_seconds,
        "step_seconds": seconds,
        **_speed(config, mesh, ready.compiled, statistics.median(seconds)),
        "memory_bytes": _memory(ready.compiled, mesh),
        "masked_tokens_per_image": {
            "expected": config.data.global_views * flops.expected_masked(config.masks, grid),
            "drawn": float(drawn),
        },
        "loss": float(metrics["loss"]) if metrics["finite"] else None,
        "finite": bool(metrics["finite"]),
    }


def _size(tree: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _time(ready: Ready, steps: int) -> tuple[dict[str, jax.Array], list[float]]:
    """Runs steps back to back; returns metrics of the last, and seconds of each.

    The next step is always under way before the end of one is awaited, as in training. A step's
    time runs from the end of the one before; the first has none, and warms up.
    """
    ends, previous = [], None
    for number in range(steps + 2):
        batch = ready.batches[number % len(ready.batches)]
        ready.state, metrics = ready.compiled(ready.state, batch, *ready.others)
        if previous is not None:
            jax.block_until_ready(previous)
            ends.append(time.perf_counter())
        previous = metrics
    jax.block_until_ready(previous)
    return metrics, np.diff(ends).tolist()


def _speed(
    config: Section, mesh: jax.sharding.Mesh, compiled: jax.stages.Compiled, seconds: float
) -> dict:
    """Relates the time of a step to the work in it."""
    by_part = flops.of_run(config)
    model = flops.total(by_part)
    # Of one device's program. XLA counts the body of a loop once, and custom calls not at all.
    compiler = compiled.cost_analysis()["flops"] * mesh.size / config.batch_size
    per_device = config.batch_size / seconds / mesh.size
    peak = device_peak(mesh, compute_dtype(config.dtype))
    return {
        "images_per_second": config.batch_size / seconds,
        "images_per_second_per_device": per_device,
        "model_flops_per_image": by_part,
        "model_flops_per_image_total": model,
        "compiler_flops_per_image": compiler,
        "compiler_to_model_flops": compiler / model,
        "model_flops_per_second_per_device": per_device * model,
        "peak_flops_per_second": peak.flops_per_second,
        "peak": peak.name,
        "mfu": per_device * model / peak.flops_per_second,
    }


def _memory(compiled: jax.stages.Compiled, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Returns what the program needs by the compiler's account, and what was in use at most."""
    planned = compiled.memory_analysis()
    memory = {
        "arguments": planned.argument_size_in_bytes,
        "outputs": planned.output_size_in_bytes,
        "aliased": planned.alias_size_in_bytes,  # outputs in place of arguments, counted in both
        "temporaries": planned.temp_size_in_bytes,
    }
    memory["total"] = memory["arguments"] + memory["outputs"] - memory["aliased"]
    memory["total"] += memory["temporaries"]
    in_use = mesh.devices.flat[0].memory_stats()  # None on CPU
    if in_use:
        memory |= {"peak_in_use": in_use["peak_bytes_in_use"], "limit": in_use["bytes_limit"]}
    return memory
