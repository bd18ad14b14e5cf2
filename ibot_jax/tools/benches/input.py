"""Measures how fast batches come out of the input pipeline, and where a core's time goes.

What counts is CPU time, of this process and its workers, an image: it does not depend on what else
the machine does, but for caches that are shared. So Pillow's decoding alone is measured in turns
with it, and the ratio of each turn told. The parts are those of making one example after the other
in this process; transport is what the whole pipeline takes beyond them.
"""

import argparse
import cProfile
import io
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from PIL import Image

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.data.draw.dealt_masks import draw_dealt_mask
from ibot_jax.data.draw.masks import draw_mask
from ibot_jax.data.draw.views import draw_views
from ibot_jax.data.make.examples import MakeExample
from ibot_jax.data.pipeline import train_batches
from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.resize import crop_and_resize
from ibot_jax.data.sources.opening import Source, open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.geometry import Geometry
from ibot_jax.parallel.shares import all_rows
from ibot_jax.runs.check import check_config
from ibot_jax.tools.benches.lines import aligned

_WARM_UP = 3  # batches: workers start, and what was made ahead is gone
_EXAMPLES = 250  # whose parts are timed, and which Pillow decodes
_ROUNDS = 5  # in each of which the pipeline, or making alone, has its turn and then Pillow
_TRANSFERS = 5  # of one batch, of which the fastest counts
# What is looked for in a profile; "read" is the source's own function.
_PARTS = {
    "decode": (EncodedImage.__init__, EncodedImage.decode),
    "draw": (draw_views,),
    "crop": (crop_and_resize,),
    "color": (apply_color,),
    "mask": (draw_mask, draw_dealt_mask),
}


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say whose input is measured."""
    add_config_arguments(parser)
    flags.add(parser, "--data", required=False, help="such as folder:PATH; else the config's")
    flags.add(parser, "--batch-size", default=64, help="images a batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_input_arguments(parser)
    parser.add_argument(
        "--number",
        type=flags.positive,
        default=2000,
        help="of images to time, again and again (2000)",
    )
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = given_config(args)
    config.data.source = args.data or config.data.source
    check_config(config)
    try:
        if args.json:
            pathlib.Path(args.json).touch()
        report = {"config": args.config, "overrides": args.overrides}
        report |= measure(
            config.seed,
            config.data,
            config.masks,
            geometry_of(config.model),
            batch_size=args.batch_size,
            num_images=args.number,
        )
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.FAILED
    print(table(report))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def measure(
    seed: int,
    data: Section,
    masks: Section,
    geometry: Geometry,
    *,
    batch_size: int,
    num_images: int,
) -> dict[str, Any]:
    """Measures the pipeline of a run.

    Args:
      seed: of the examples, which are made as `train_batches` does.
      data: likewise; it names their source, too.
      masks: likewise.
      geometry: likewise.
      batch_size: images a batch; all there are, if those are fewer.
      num_images: how many to time at least; small data is gone through again and again.

    Returns:
      The report, whose seconds are means over images, of CPU time unless said otherwise.

    Raises:
      UserError: if the source cannot be opened.
      TrainingError: if too many images cannot be read.
    """
    source = open_source(
        data.source,
        data.split,
        data_dir=data.data_dir,
        max_per_class=data.max_per_class,
        channels=data.channels,
    )
    batch_size = min(batch_size, len(source))
    num_batches = -(-num_images // batch_size)
    grid = geometry.grid(data.global_size)
    examples = _Examples(source, MakeExample(source.fetch, seed, data, masks, grid))
    turns = np.array_split(np.arange(num_batches), min(_ROUNDS, num_batches))
    taken = num_batches + len(turns) * _WARM_UP
    # Workers do not run dry at the end.
    plan = Plan(batch_size, len(source) // batch_size, taken + 10)
    rows = all_rows(batch_size)
    settings = dict(seed=seed, data=data, masks=masks, geometry=geometry)
    batches = train_batches(source, plan, rows, **settings)
    wall, owner, workers, pillow = np.transpose(
        [_turn(batches, len(turn), examples.decode_by_pillow) for turn in turns]
    )
    of_turn = (owner + workers) / [len(turn) * batch_size for turn in turns]
    wall, owner, workers = (x.sum() / (num_batches * batch_size) for x in (wall, owner, workers))
    batch = next(batches)
    del batches  # ends the workers
    parts, ratios = _parts(source, examples)
    total = owner + workers
    parts["transport"] = total - sum(parts.values())
    return {
        "source": source.name,
        "source_images": len(source),
        "images": num_batches * batch_size,
        "batch_size": batch_size,
        "augment": data.augment,
        "resize": data.resize,
        "cores": os.cpu_count(),
        "images_per_second_per_core": 1 / total,
        "images_per_second": 1 / wall,
        "seconds": total,
        "worker_seconds": workers,
        "owner_seconds": owner,
        "part_seconds": parts,
        "pillow_decode_seconds": statistics.median(pillow),
        "of_pillow": _spread(pillow / of_turn),
        "making_of_pillow": _spread(ratios),
        "device": jax.devices()[0].device_kind,
        "transfer_wall_seconds": _transfer_seconds(batch) / batch_size,
    }


def _worker_seconds() -> float:
    """Returns the CPU time of all child processes so far."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(one.user + one.system for one in times)


def _turn(
    batches: Iterator[Any], number: int, decode_by_pillow: Callable[[], float]
) -> tuple[float, float, float, float]:
    """Takes so many batches, once the pipeline is under way, and then has Pillow decode.

    Returns:
      Seconds that the batches took; of CPU time what this process and its workers took meanwhile,
      and Pillow an image.
    """
    for _ in range(_WARM_UP):
        next(batches)
    wall, owner, workers = time.perf_counter(), time.process_time(), _worker_seconds()
    for _ in range(number):
        next(batches)
    wall, owner = time.perf_counter() - wall, time.process_time() - owner
    return wall, owner, _worker_seconds() - workers, decode_by_pillow()


class _Examples:
    """Some images of a source, those that can be read, made into examples again and again."""

    def __init__(self, source: Source | TfdsStream, make_example: MakeExample):
        self._make_example = make_example
        self._out = make_example.blank()
        self._located = list(_healthy(make_example, self._out, _located(source)))
        self._fetched = [source.fetch(item) for item in self._located]

    def __len__(self) -> int:
        return len(self._located)

    def make(self) -> None:
        """Makes all examples."""
        for index, item in enumerate(self._located):
            self._make_example(self._out, item, 0, index, True)

    def decode_by_pillow(self) -> float:
        """Has Pillow decode all images; returns the CPU time an image."""
        return _cpu_seconds(lambda: list(map(_decode_by_pillow, self._fetched))) / len(self)


def _parts(
    source: Source | TfdsStream, examples: _Examples
) -> tuple[dict[str, float], Sequence[float]]:
    """Returns the CPU time of each part of making an example, and its speed of Pillow's, by turn.

    The profiler's own time is taken out in proportion.
    """
    turns = [
        (_cpu_seconds(examples.make) / len(examples), examples.decode_by_pillow())
        for _ in range(_ROUNDS)
    ]
    total = statistics.median(made for made, _ in turns)
    profile = cProfile.Profile(time.thread_time, builtins=False)
    profile.runcall(examples.make)
    found = {entry.code: entry.totaltime for entry in profile.getstats()}
    scale = total / found[_Examples.make.__code__]
    # A partial's function; None where bytes or arrays are located, not paths.
    read = getattr(getattr(source.fetch, "func", source.fetch), "__code__", None)
    parts = {"read": scale * found.get(read, 0.0)}
    for name, functions in _PARTS.items():
        parts[name] = scale * sum(found.get(function.__code__, 0.0) for function in functions)
    parts["other"] = total - sum(parts.values())
    return parts, [pillow / made for made, pillow in turns]


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Returns the median, the lowest and the highest."""
    return statistics.median(ratios), min(ratios), max(ratios)


def _located(source: Source | TfdsStream) -> list[Any]:
    if isinstance(source, TfdsStream):
        return [encoded for encoded, *_ in source.standby]
    return [source.locate(index)[0] for index in range(min(len(source), _EXAMPLES))]


def _healthy(make_example: MakeExample, out: Sequence, located: Sequence[Any]) -> Iterator[Any]:
    """Yields what is no bad image."""
    for index, item in enumerate(located):
        try:
            make_example(out, item, 0, index, True)
        except Exception:  # the pipeline has named it
            continue
        yield item


def _decode_by_pillow(fetched: Any) -> None:
    if isinstance(fetched, bytes):
        Image.open(io.BytesIO(fetched)).convert("RGB")


def _cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def _transfer_seconds(batch: dict[str, Any]) -> float:
    """Returns the wall time of copying a batch to one device."""
    seconds = []
    for _ in range(_TRANSFERS):
        start = time.perf_counter()
        jax.block_until_ready(jax.device_put(batch))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def table(report: dict[str, Any]) -> str:
    """Returns the lines that show a report to people."""

    def milliseconds(seconds):
        return f"{1e3 * seconds:.3f} ms"

    def of_pillow(key):
        return "{:.2f} ({:.2f} to {:.2f}) of Pillow's decoding".format(*report[key])

    rows = [
        ("config", " ".join([report["config"], *report["overrides"]])),
        ("data", f"{report['source']}, {report['source_images']} images"),
        ("timed", f"{report['images']} images in batches of {report['batch_size']}"),
        ("views", f"augment={report['augment']}, resize={report['resize']}"),
        (
            "speed of a core",
            f"{report['images_per_second_per_core']:.1f} images/s, {of_pillow('of_pillow')}",
        ),
        ("  making alone", of_pillow("making_of_pillow")),
        ("speed", f"{report['images_per_second']:.1f} images/s, {report['cores']} cores"),
        ("CPU an image", milliseconds(report["seconds"])),
        *((f"  {name}", milliseconds(part)) for name, part in report["part_seconds"].items()),
        ("Pillow's decoding", milliseconds(report["pillow_decode_seconds"]) + " an image, alone"),
        (
            "to the device",
            f"{milliseconds(report['transfer_wall_seconds'])} an image, {report['device']}",
        ),
    ]
    return aligned(rows)
