"""Looks at images before a training does: how many, of which classes and sizes, which are bad.

    python -m ibot_jax.tools.data SOURCE [--split=train] [--number=1000] [--out=sheet.webp]
        [--config=configs/vits16.py] [--json=FILE]

SOURCE is a folder, or what `data.source` takes (`folder:PATH`, `tar:PATTERN`, ...). Of all images
names and labels are counted, and `--number` of them, evenly spaced, are read: the mean and the
deviation of their pixels, as keys to train with; those of equal bytes; those that cannot be read,
by name; images a second that one core decodes and cuts into the views of `--config`. `--out` draws
the first images and views of them as that config cuts them, masked patches dark.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import collections
import dataclasses
import hashlib
import time
from typing import Any

import numpy as np
from PIL import Image

from ibot_jax.cli import exits, flags
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.section import Section
from ibot_jax.data.make.examples import MakeExample
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.data.sources.opening import KINDS, Source, open_source, splits_for_testing
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.architectures import geometry_of
from ibot_jax.screen import canvas
from ibot_jax.screen import views as drawn
from ibot_jax.screen.progress import progress
from ibot_jax.visualize.pictures import spread

_NAMED = 10  # of a kind of images, on the screen
_ROWS = 6  # of the sheet
_DARK = 0.25  # of its light that a masked patch keeps


@dataclasses.dataclass
class Found:
    """What was found in the images that were read.

    Attributes:
      sides: height and width of each.
      modes: how many files have which channels, by Pillow's names.
      bad: (name, reason) of those that cannot be read.
      odd: (name, note) of those that were read otherwise than may be meant.
      twice: (name, name of the first) of those whose bytes another one has, too.
      pixels: how many there are.
      sums: of the channels' values between 0 and 1, [C].
      squares: of their squares, [C].
      seconds: of this core, to decode, and to make views.
    """

    sides: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    modes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    odd: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    twice: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    pixels: int = 0
    sums: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of each channel's pixels, [C]."""
        mean = self.sums / self.pixels
        return mean, np.sqrt(np.maximum(self.squares / self.pixels - mean**2, 0))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m ibot_jax.tools.data", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a folder, or a source")
    add_config_arguments(parser, default="vits16")
    parser.add_argument("--split", default="train", help="as data.split (train)")
    flags.add(parser, "--data-dir")
    parser.add_argument(
        "--number", type=flags.natural, default=1000, help="of images to read; 0 is all (1000)"
    )
    flags.add(parser, "--out", required=False, help="a picture of images and their views")
    flags.add(parser, "--json")
    args, args.overrides = parser.parse_known_args(argv)
    out = canvas.check_out(args.out) if args.out else None
    config = given_config(args)
    config.data.update(augment="host")
    source, spec = _open(args, config.data)
    chosen = spread(args.number or len(source), len(source))
    task = MakeExample(
        source.fetch,
        config.seed,
        config.data,
        config.masks,
        geometry_of(config.model).grid(config.data.global_size),
    )
    found = look(source, chosen, Decoding.of(config.data), task)
    report = describe(source, spec, args, found)
    for line in in_lines(report):
        print(line)
    if out:
        canvas.save(draw(source, chosen[:_ROWS], config.data, task), out)
        print(f"written to {out}")
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE if found.sides else exits.FAILED


def _open(args: argparse.Namespace, data: Section) -> tuple[Source, str]:
    """Returns the source that the command line names, and its name as `data.source` has it."""
    known = args.source.partition(":")[0] in KINDS
    spec = args.source if known else f"folder:{args.source}"
    source = open_source(
        spec, args.split, data_dir=args.data_dir, channels=data.channels, key="--split"
    )
    if isinstance(source, TfdsStream):
        raise UserError(
            f"{source.name} has no random access; prepare it with --file_format=array_record"
        )
    return source, spec


def look(source: Source, chosen: np.ndarray, decoding: Decoding, task: MakeExample) -> Found:
    """Reads images.

    Args:
      source: of them.
      chosen: which of them.
      decoding: how files become pixels.
      task: makes views, to be timed.
    """
    found, first, out = Found(), {}, task.blank()
    decoded = viewed = 0.0
    for index in progress(chosen.tolist(), len(chosen), "reading"):
        name = source.describe(index)
        try:
            located, _ = source.locate(index)
            content = source.fetch(located)
            start = time.thread_time()
            image = EncodedImage(content, decoding)
            pixels = image.decode()
            middle = time.thread_time()
            task(out, located, 0, index, True)
            decoded, viewed = decoded + middle - start, viewed + time.thread_time() - middle
        except Exception as error:  # Pillow and file systems raise nearly every kind
            found.bad.append((name, in_words(error)))
            continue
        digest = hashlib.sha256(_identity(content, located)).digest()
        if digest in first:
            found.twice.append((name, first[digest]))
        first.setdefault(digest, name)
        if image.note:
            found.odd.append((name, image.note))
        found.modes[image.mode] += 1
        found.sides.append(pixels.shape[:2])
        values = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1) / 255.0
        found.pixels += len(values)
        found.sums = found.sums + values.sum(axis=0)
        found.squares = found.squares + (values**2).sum(axis=0)
    found.seconds = decoded, viewed
    return found


def _identity(content: bytes | np.ndarray | Excerpt, located: Any) -> bytes:
    """Returns what images have in common that are the same."""
    return repr(located).encode() if isinstance(content, Excerpt) else bytes(content)


def describe(source: Source, spec: str, args: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Returns the report, JSON types."""
    report: dict[str, Any] = {
        "source": spec,
        "split": args.split,
        "images": len(source),
        "splits_to_test_on": splits_for_testing(spec, data_dir=args.data_dir),
        "classes": source.num_classes,
        "read": len(found.sides),
        "bad": found.bad,
        "odd": found.odd,
        "twice": found.twice,
    }
    if source.labels is not None:
        counts = np.bincount(source.labels, minlength=source.num_classes)
        report["images_of_a_class"] = [int(counts.min()), int(counts.max())]
    if found.sides:
        heights, widths = np.array(found.sides).T
        for name, sides in (("heights", heights), ("widths", widths)):
            report[name] = [int(x) for x in (sides.min(), np.median(sides), sides.max())]
        mean, deviation = found.mean_and_deviation()
        report["mean"] = [round(float(x), 4) for x in mean]
        report["std"] = [round(float(x), 4) for x in deviation]
        report["modes"] = dict(found.modes.most_common())
        decoded, viewed = found.seconds
        report["decoded_per_second"] = len(found.sides) / max(decoded, 1e-9)
        report["views_per_second"] = len(found.sides) / max(viewed, 1e-9)
    return report


def in_lines(report: dict[str, Any]) -> list[str]:
    """Returns the report for people."""
    lines = [f"{report['images']:,} images of {report['source']}, split {report['split']}"]
    if report["classes"]:
        counted = ""
        if "images_of_a_class" in report:
            fewest, most = report["images_of_a_class"]
            counted = f", of {fewest:,} to {most:,} images"
        lines.append(f"{report['classes']:,} classes{counted}")
    else:
        lines.append("no labels: no k-NN and no probe while it trains")
    tested = ", ".join(report["splits_to_test_on"]) or "none; evaluations need knn.test_split"
    lines.append(f"splits to test on: {tested}")
    lines.append(f"{report['read']:,} were read, {len(report['bad']):,} cannot be")
    if report["read"]:
        for name in ("heights", "widths"):
            lowest, median, highest = report[name]
            lines.append(f"{name} {lowest} to {highest} pixels, median {median}")
        lines.append(
            "channels " + ", ".join(f"{mode} {count:,}" for mode, count in report["modes"].items())
        )
        keys = {key: ",".join(map(str, report[key])) for key in ("mean", "std")}
        lines.append(" ".join(f"--config.data.{key}={values}" for key, values in keys.items()))
        lines.append(
            f"one core: {report['decoded_per_second']:.0f} images/s decoded, "
            f"{report['views_per_second']:.0f} images/s made into views"
        )
    titles = {
        "bad": "cannot be read",
        "odd": "may be read otherwise than meant",
        "twice": "has the bytes of another one",
    }
    for kind, title in titles.items():
        lines += [f"{title}: {name} ({why})" for name, why in report[kind][:_NAMED]]
        if len(report[kind]) > _NAMED:
            lines.append(f"{title}: {len(report[kind]) - _NAMED:,} more")
    return lines


def draw(source: Source, chosen: np.ndarray, data: Section, task: MakeExample) -> Image.Image:
    """Returns a picture, a row an image: itself, its global views with masks, local views."""
    rows, cell = [], max(*data.global_size, 96)
    for index in chosen.tolist():
        out = task.blank()
        try:
            located, _ = source.locate(index)
            whole = EncodedImage(source.fetch(located), Decoding.of(data)).decode()
            task(out, located, 0, index, True)
        except Exception:  # it is told as bad
            continue
        views = dict(zip(task.keys, out, strict=True))
        whole = whole if whole.ndim == 3 else whole[..., None]
        rows.append([canvas.photo(whole, cell), *drawn.row(views, cell)])
        labels = ["image", *drawn.labels(views)]
    if not rows:
        raise UserError(f"of {source.name} no image can be read")
    return canvas.sheet(rows, labels, cell=cell)


if __name__ == "__main__":
    leave(main())
