"""Writes what a trained model finds of images: their classes, or masks or depths of their pixels.

    python -m ibot_jax.predict --from=PATH --data=FOLDER --out=classes.csv [--top=5]
    python -m ibot_jax.predict --from=REPORT.json --data=FOLDER --out=DIR [--pictures=20]

FOLDER is searched with all below it, by name; any other source of training, such as
tar:gs://bucket/*.tar, is read in its order. Images that cannot be read are named and left out.

PATH is the folder of a fine-tuning (python -m ibot_jax.evaluate finetune), one of its checkpoints,
or what ibot_jax.export wrote of it with --head. A line of the file is an image: its `name`, its
likeliest `class` and the `probability` of that; then `class_2`, `probability_2` and so on.
FILE.unfinished holds what is done: interrupted, the same command goes on and removes it at the end.

REPORT.json is what python -m ibot_jax.evaluate segmentation, upernet or depth wrote, beside what it
trained. Images are seen as its test images were. DIR/masks/NAME.png has the number of the class of
each pixel, in colours by its palette; DIR/depths/NAME.png is of 16 bits, 1000 a metre (nyu) or 256
(kitti); DIR/pictures/NAME.png has the image and beside it what was found, of depths the nearer the
lighter. Interrupted, the same command goes on with the images that are left.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

import jax
import numpy as np
from etils import epath

from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.flags import (
    DECODING,
    add,
    add_number,
    add_unlabelled_options,
    natural,
)
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.data.sources.opening import Source, Subset
from ibot_jax.data.sources.unlabelled import name_in_text, open_images
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views, open_model, open_views
from ibot_jax.evaluate.predictions import require_new_or_unfinished, write_predictions
from ibot_jax.evaluate.reopening import is_report, reopen
from ibot_jax.files.atomic import write_bytes
from ibot_jax.files.json_lines import JsonLines, Row, read_lines
from ibot_jax.files.paths import absolute_path, require_new, warn_if_among_images, writing
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress
from ibot_jax.weights.hashes import flat_tensors, weights_hash
from ibot_jax.weights.model import Model

# Flags that say what a report does.
_OF_CLASSES = ("size", "resize", "top", "weights", "step", "dtype", "workers", *DECODING)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(
        lambda: _predict(*_parse(argv)), interrupted="interrupted; the same command goes on"
    )


def _parse(argv: list[str] | None) -> tuple[OneLineParser, argparse.Namespace]:
    parser = OneLineParser(prog="python -m ibot_jax.predict", description=__doc__)
    add(
        parser,
        "--from",
        help="a fine-tuning's folder, one of its checkpoints, an export, or a report of a task "
        "that was trained for pixels",
    )
    add_unlabelled_options(parser)
    add(parser, "--out", help="classes.csv, or a folder for masks or depths")
    group = parser.add_argument_group("classes")
    add_number(group, "--top", 1, "of each image")
    add(group, "--weights", "--step", "--dtype")
    group = parser.add_argument_group("masks and depths")
    add_number(group, "--pictures", 0, "of the first N images", kind=natural)
    add(parser, "--overwrite")
    return parser, parser.parse_args(argv)


def _predict(parser: OneLineParser, args: argparse.Namespace) -> None:
    if is_report(args.source):
        _write_pixels(parser, args)
    else:
        _write_classes(args)


def _write_pixels(parser: OneLineParser, args: argparse.Namespace) -> None:
    for name in _OF_CLASSES:
        if getattr(args, name) != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')} has no place beside a report, which says how images "
                f"are seen ({args.source}); leave it out"
            )
    target = absolute_path(args.out)
    require_new_or_unfinished(target, overwrite=args.overwrite)
    given = args.batch_size != parser.get_default("batch_size")
    trained = reopen(args.source, make_mesh(), batch_size=args.batch_size if given else 0)
    decoding = Decoding.of(trained.model.config.data)
    source = open_images(args.images, args.split, decoding.channels)
    warn_if_among_images(args.out, "--out", [args.images])
    settings = {name: trained.report[name] for name in ("task", "settings")}
    about = {"report": settings, "images": fingerprint(source)}
    number = write_predictions(trained.pixels, source, decoding, target, args.pictures, about)
    values = f"{trained.pixels.finds} ({trained.pixels.values})"
    print(f"{_counted(number, source, args)}: {target}, {values}")


def _counted(number: int, source: Source, args: argparse.Namespace) -> str:
    """Returns how many images there were; raises a UserError if there were none."""
    if not number:
        raise UserError(f"none of the {len(source)} images in {args.images} can be read")
    skipped = f", {len(source) - number} skipped" if number < len(source) else ""
    return f"{number:,} images{skipped}"


def _write_classes(args: argparse.Namespace) -> None:
    if args.pictures:
        raise UserError(f"--pictures are of masks and depths, and {args.source} is no report")
    target = absolute_path(args.out)
    if target.suffix != ".csv":
        raise UserError(f"--out={args.out} is no .csv; end it so")
    require_new(target, "--out", overwrite=args.overwrite)
    mesh = make_mesh()
    model, params = open_model(args, mesh, head=True)
    if model.classifier is None:
        raise UserError(
            f"--from={args.source} has no classifier; give a fine-tuning, or its export with --head"
        )
    if args.top > model.classifier["classes"]:
        raise UserError(
            f"--top={args.top} is more than the {model.classifier['classes']} classes of "
            f"{args.source}"
        )
    views = open_views(args, model, mesh)
    source = open_images(args.images, args.split, views.channels)
    names = model.classifier["names"] or range(model.classifier["classes"])
    about = {"weights": weights_hash(flat_tensors(params)), "view": views.cut()}
    about |= {"dtype": args.dtype, "top": args.top, "images": fingerprint(source)}
    unfinished = target.with_name(f"{target.name}.unfinished")
    parts = _parts(unfinished, about)
    with writing("--out", target), contextlib.closing(JsonLines(unfinished, parts)) as file:
        start = parts[-1].get("stop", 0)
        for stop, found in likeliest(model, params, views, source, args.top, mesh, start):
            lines = []
            for index, ranked in found:
                cells = [cell for place, p in ranked for cell in (names[place], f"{p:.4f}")]
                lines.append([name_in_text(source, index), *cells])
            parts.append({"stop": stop, "lines": lines})
            file.write(parts[-1])
            file.check()
    lines = [line for part in parts[1:] for line in part["lines"]]
    counted = _counted(len(lines), source, args)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["name", *_columns(args.top)], *lines])
    with writing("--out", target):
        write_bytes(target, text.getvalue().encode())
        unfinished.unlink()
    print(f"{counted}: {target}")


def _parts(unfinished: epath.Path, about: dict[str, Any]) -> list[Row]:
    """Returns what an interrupted command has left: what it is of, then what is done.

    Raises:
      UserError: if it is of something else.
    """
    about = json.loads(json.dumps({"about": about}))
    parts = read_lines(unfinished) or [about]
    if parts[0] != about:
        raise UserError(
            f"{unfinished} is of other images, weights or flags; remove it, or choose another --out"
        )
    return parts


def _columns(top: int) -> Iterator[str]:
    for place in range(1, top + 1):
        end = "" if place == 1 else f"_{place}"
        yield from (f"class{end}", f"probability{end}")


def likeliest(
    model: Model,
    params: Params,
    views: Views,
    source: Source,
    top: int,
    mesh: jax.sharding.Mesh,
    start: int = 0,
) -> Iterator[tuple[int, list[tuple[int, list[tuple[int, float]]]]]]:
    """Yields the likeliest classes of the images that can be read, batch by batch.

    Args:
      model: a fine-tuned one.
      params: with its classifier, on all devices.
      views: how images are cut.
      source: the images.
      top: how many classes.
      mesh: the devices.
      start: the first image.

    Yields:
      The number behind a batch's last image; and of each image its number, and pairs of a class and
      its probability, the likeliest first.
    """

    @jax.jit
    def program(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.class_logits(params, model.whole_patches(images))
        return jax.lax.top_k(jax.nn.softmax(logits), top)

    if start == len(source):
        return
    rest, done = Subset(source, range(start, len(source))), start // views.rows.batch_size
    batches = progress(views.batches(rest), done + views.number(rest), "classes", start=done)
    for batch in batches:
        outputs = program(params, to_global({"x": batch["images"]}, mesh)["x"])
        probabilities, classes = (np.asarray(x).tolist() for x in outputs)
        found = [
            (start + row, list(zip(classes[row], probabilities[row], strict=True)))
            for row in np.flatnonzero(batch["valid"]).tolist()
        ]
        start = min(start + len(batch["valid"]), len(source))
        yield start, found


if __name__ == "__main__":
    leave(main())
