"""Writes the features of images to one file.

    python -m ibot_jax.embed --from=PATH --data=FOLDER --out=features.parquet [...]
    python -m ibot_jax.embed --from=PATH --data=tar:gs://bucket/*.tar --out=features.parquet [...]

PATH is a run's workdir, one of its checkpoints, or what ibot_jax.export or ibot_jax.convert wrote.
FOLDER is searched with all below it, by name; any other source of training is read in its order.

    .parquet  columns `name`, `class` [D] and, with --patches, `patches` [N * D]
    .npz      arrays `names` [M], `class` [M, D] and `patches` [M, N, D]

`class` are the class tokens after the last norm, float32. Memory is bounded whatever the number of
images. OUT.parts/ holds what is done; the same command goes on from there and removes it at the
end. Images that cannot be read are named and left out.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

import jax
import numpy as np

from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.flags import add, add_unlabelled_options
from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.data.sources.opening import Source, Subset
from ibot_jax.data.sources.unlabelled import name_in_text, open_images
from ibot_jax.embed.parts import FORMATS, Parts
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views, open_model, open_views
from ibot_jax.evaluate.features.cache import identity
from ibot_jax.files.paths import absolute_path, require_new
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

_PART_BYTES = 2**26  # of the features that are written, and kept in memory, at a time


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(
        lambda: _embed(_parse(argv)), interrupted="interrupted; the same command goes on"
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m ibot_jax.embed", description=__doc__, former={"--images": "--data"}
    )
    add(parser, "--from")
    add_unlabelled_options(parser)
    add(parser, "--out", metavar="FILE", help="features.parquet or .npz")
    parser.add_argument("--patches", action="store_true", help="patch tokens, too")
    add(parser, "--weights", "--step", "--dtype", "--overwrite")
    return parser.parse_args(argv)


def _embed(args: argparse.Namespace) -> None:
    target = absolute_path(args.out)
    if target.suffix not in FORMATS:
        raise UserError(f"--out={args.out} is neither .parquet nor .npz; end it with one of them")
    require_new(target, "--out", overwrite=args.overwrite)
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    views = open_views(args, model, mesh)
    source = open_images(args.images, args.split, views.channels)
    parts = Parts(target, _settings(args, model, params, views, source), len(source))
    patches = model.geometry.grid(model.geometry.whole(views.size))
    with contextlib.closing(parts):
        for start, stop, features in _features(model, params, views, source, parts.end, args, mesh):
            rows = features.pop("rows")
            parts.add(
                start,
                stop,
                {"names": [name_in_text(source, start + row) for row in rows], **features},
            )
        number = parts.finish(patches if args.patches else None)
    if not number:
        raise UserError(f"none of the {len(source)} images in {args.images} can be read")
    skipped = f", {len(source) - number} skipped" if number < len(source) else ""
    print(f"{number:,} images{skipped}: {target}")


def _settings(
    args: argparse.Namespace, model: Model, params: Params, views: Views, source: Source
) -> dict[str, Any]:
    """Returns what must be the same for a command to go on where another one ended; JSON types."""
    features = {**identity(model, params, "tokens", 1), "patches": args.patches}
    return features | views.cut() | {"images": fingerprint(source)}


def _features(
    model: Model,
    params: Params,
    views: Views,
    source: Source,
    start: int,
    args: argparse.Namespace,
    mesh: jax.sharding.Mesh,
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Yields features in parts, from image `start` on.

    Yields:
      First image of the part, the one behind its last, and a dict of: rows [M], which of them could
      be read, counted from the first; class [M, D] float32; and by option patches [M, N, D].
    """
    if start == len(source):
        return

    @jax.jit
    def program(params, images):
        tokens = model.features(params, model.whole_patches(images))
        batch, *_, width = tokens.patches.shape
        patches = {"patches": tokens.patches.reshape(batch, -1, width)} if args.patches else {}
        return {"class": tokens.cls, **patches}

    def fetch(outputs, valid):
        rows = {name: np.asarray(array)[valid] for name, array in outputs.items()}
        return rows | {"valid": valid}

    rest = Subset(source, range(start, len(source)))
    buffer, size, pending = [], 0, None
    done = start // views.rows.batch_size
    batches = progress(views.batches(rest), done + views.number(rest), "features", start=done)
    for batch in batches:
        outputs = program(params, to_global({"x": batch["images"]}, mesh)["x"])
        if pending is not None:  # fetched while the device works on the next batch
            buffer.append(fetch(*pending))
        pending = outputs, batch["valid"]
        size += sum(array.nbytes for array in outputs.values())
        if size >= _PART_BYTES:
            buffer.append(fetch(*pending))
            pending, size = None, 0
            stop = min(start + len(buffer) * views.rows.batch_size, len(source))
            yield start, stop, _joined(buffer)
            buffer, start = [], stop
    if pending is not None:
        buffer.append(fetch(*pending))
    if buffer:
        yield start, len(source), _joined(buffer)


def _joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    return {"rows": np.flatnonzero(joined.pop("valid")), **joined}


if __name__ == "__main__":
    leave(main())
