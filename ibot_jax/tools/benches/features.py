"""Times the extraction of features beside the bare forward pass, in turns.

Extraction is what evaluations do (`ibot_jax.evaluate`): files are read, decoded, resized and cut by
worker processes, batches go to the devices, and features come back. The forward pass is the same
program on a batch that lies on the devices already, and input is all of extraction but the devices.
No weights are needed: those of the first step do. Where input is far faster than the forward pass,
extraction should be as fast as that; on CPUs, where all share the cores, it takes both times.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import given_config
from ibot_jax.config.host import num_cores
from ibot_jax.config.section import Section
from ibot_jax.data.batching import PREFETCH
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import Source, Subset, open_source
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views, open_rows
from ibot_jax.evaluate.features.extract import extract_batches, feature_program, make_feature_fn
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.models import counts
from ibot_jax.models.build import compute_dtype
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs.check import check_config
from ibot_jax.screen.progress import busy
from ibot_jax.tools.benches.input import add_input_arguments
from ibot_jax.tools.benches.lines import aligned, ratio, scaled, speed
from ibot_jax.tools.benches.turns import in_turns
from ibot_jax.tools.peak import device_peak
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_input_arguments(parser)
    flags.add_number(parser, "--rounds", 5, "turns of each")
    flags.add_number(parser, "--number", 512, "of images to time in a turn")
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = given_config(args)
    config.data.source = args.data or config.data.source
    config.knn.every = ""  # nothing is trained, nor checked for it
    check_config(config)
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype={config.dtype!r} is none of evaluations; use float32 or bfloat16")
    mesh = make_mesh()
    model, params = untrained(Model(config, args.config))
    views = Views(model.view, Decoding.of(config.data), open_rows(args, mesh), config.data.workers)
    batches = -(-args.number // args.batch_size)
    source = _repeated(_opened(config.data), args.rounds * (batches + _ahead(views)), views)
    report = {
        "config": " ".join([args.config, *args.overrides]),
        "source": source.name,
        "batch_size": args.batch_size,
        "batches": batches,
    }
    report |= measure(model, params, views, source, mesh, rounds=args.rounds, batches=batches)
    print(table(report))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def _opened(data: Section) -> Source:
    source = open_source(
        data.source,
        data.split,
        data_dir=data.data_dir,
        max_per_class=data.max_per_class,
        channels=data.channels,
    )
    if isinstance(source, TfdsStream):
        raise UserError(f"{source.name} has no random access; give a folder")
    require_readable(source, Decoding.of(data), purpose="this measurement")
    return source


def _ahead(views: Views) -> int:
    """Returns how many batches may be made ahead: each worker's, those that wait, one on its way.

    So many pass before a turn is timed: they are gone then, or made while another side warms up.
    """
    return PREFETCH + (views.workers or num_cores()) + 2


def _repeated(source: Source, batches: int, views: Views) -> Subset:
    """Returns the images of so many batches and those made ahead, all there are in turns."""
    number = (batches + _ahead(views)) * views.rows.batch_size
    return Subset(source, np.arange(number) % len(source))


def measure(
    model: Model,
    params: Any,
    views: Views,
    source: Source,
    mesh: jax.sharding.Mesh,
    *,
    rounds: int,
    batches: int,
) -> dict[str, Any]:
    """Times the three sides in turns.

    Args:
      model: whose features.
      params: its parameters.
      views: how images are cut, and how many make a batch.
      source: more images than are asked for.
      mesh: the devices.
      rounds: of turns.
      batches: of each turn.

    Returns:
      `seconds` of a turn of "forward", "input" and "extraction"; `ratio` of a round, the speed of
      extraction by that of the forward pass; what the model computes, and by `utilisation` which
      share of the devices' `peak` both reach at the median.
    """
    feature_fn = make_feature_fn(model, "cls", blocks=1)
    program = feature_program(feature_fn, mesh)
    batch = to_global(next(views.batches(source)), mesh)

    def forward() -> Iterator[Any]:
        while True:
            yield program(params, batch)

    with busy("compiling"):
        jax.block_until_ready(program(params, batch))
    streams = {
        "forward": forward(),
        "input": views.batches(source),
        "extraction": extract_batches(feature_fn, params, views.batches(source), mesh),
    }
    sides = {name: _timed(stream, _ahead(views), batches) for name, stream in streams.items()}
    seconds = in_turns(sides, rounds)
    for stream in streams.values():
        stream.close()  # ends the workers
    both = zip(seconds["forward"], seconds["extraction"], strict=True)
    data, images = model.config.data, batches * views.rows.batch_size
    flops = counts.flops(model.config.model, data.channels, views.size, data.global_size)
    peak = device_peak(mesh, compute_dtype(model.config.dtype))
    work = images * sum(flops.values()) / mesh.size / peak.flops_per_second  # seconds at the peak
    return {
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "jax": jax.__version__,
        "dtype": model.config.dtype,
        "size": list(views.size),
        "seconds": seconds,
        "ratio": [forward / extraction for forward, extraction in both],
        "model_flops_per_image": sum(flops.values()),
        "peak_flops_per_second": peak.flops_per_second,
        "peak": peak.name,
        "utilisation": {
            name: work / float(np.median(seconds[name])) for name in ("forward", "extraction")
        },
    }


def _timed(stream: Iterator[Any], ahead: int, batches: int) -> Callable[[], float]:
    """Returns what takes so many batches of a stream after others, and tells their seconds."""

    def take(number: int) -> None:
        for _ in range(number):
            latest = next(stream)
        jax.block_until_ready(latest)

    def turn() -> float:
        take(ahead)
        start = time.perf_counter()
        take(batches)
        return time.perf_counter() - start

    return turn


def table(report: dict[str, Any]) -> str:
    """Returns the lines that show a report to people."""
    images = report["batches"] * report["batch_size"]
    model, used = report["model_flops_per_image"], report["utilisation"]
    rows = [
        ("config", report["config"]),
        ("data", f"{report['source']}, {' x '.join(map(str, report['size']))} pixels"),
        ("devices", f"{report['devices']} x {report['device']} (JAX {report['jax']})"),
        ("batch", f"{report['batch_size']} images, {report['dtype']}; {images} images a turn"),
    ]
    rows += [(name, speed(images, seconds)) for name, seconds in report["seconds"].items()]
    rows += [
        ("extraction by forward", ratio(report["ratio"])),
        ("model FLOPs", f"{scaled(model)} an image, forward"),
        (
            "utilisation",
            f"forward {100 * used['forward']:.1f} %, extraction {100 * used['extraction']:.1f} % "
            f"of {scaled(report['peak_flops_per_second'])}FLOP/s each device",
        ),
        ("peak", report["peak"]),
    ]
    return aligned(rows)
