"""Detection of strongly distorted copies: Copydays, mAP.

What it measures: whether an image is still known when it was printed and scanned, blurred, painted
on. Each distorted copy looks for its original among all originals and, by option, distractors, by
cosine similarity; nothing is trained, but features may be whitened. As in the original (paper,
appendix) and in DINO: images are stretched to squares, the feature is the class token and behind it
the GeM mean (power 4) of the patch tokens, and what is found beyond the 20 nearest does not count.

Data: DATA/original/*.jpg and DATA/strong/*.jpg; the first four characters of a name tell what is a
copy of what (200401.jpg of 200400.jpg). --distractors and --whitening are folders of other images:
in the published protocol 10,000 and 20,000 of YFCC100M.

    python -m ibot_jax.evaluate copydetection --from=runs/mine --data=DATA --whitening=OTHERS
"""

import argparse
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.same_images import require_same_files
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import (
    list_images,
    read_image,
    share_batches,
    to_square,
)
from ibot_jax.evaluate.common.opening import open_model, open_rows, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.extract import FeatureFn, extract
from ibot_jax.evaluate.measures.average_precision import average_precision, positive_ranks
from ibot_jax.evaluate.measures.cosine import unit
from ibot_jax.evaluate.measures.whitening import fit_whitening
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import in_step, same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

_RETRIEVED = 20
_PREFIX = 4  # characters of a name that an original shares with its copies
_POWER = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder of Copydays")
    group.add_argument("--distractors", metavar="DIR", help="images that nothing is a copy of")
    group.add_argument("--whitening", metavar="DIR", help="images that whitening is learned from")
    flags.add(group, "--size", nargs=None, default=224, help="side of the squares of images")
    flags.add(group, "--batch-size", default=64)


def run(args: argparse.Namespace) -> Report:
    """Looks for the original of each copy.

    Raises:
      UserError: for what the user can mend.
    """
    data = absolute_path(args.data)
    with same_end():
        copies, originals = (list_images(data / name) for name in ("strong", "original"))
        positives = [find_originals(copy, originals) for copy in copies]
        distractors, others = (
            list_images(absolute_path(folder)) if folder else []
            for folder in (args.distractors, args.whitening)
        )
    for files in (copies, originals, distractors, others):
        require_same_files(files, f"--data={args.data}")
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    if args.size < model.geometry.stride:
        raise UserError(f"--size={args.size} is less than a patch of {model.geometry.stride}")
    rows = open_rows(args, mesh)
    feature_fn = make_copy_fn(model)

    def features(files: Sequence[epath.Path]) -> np.ndarray:
        batches = square_batches(files, args.size, Decoding.of(model.config.data), rows)
        return extract(feature_fn, params, batches, mesh)[0]

    queries, database = features(copies), features([*originals, *distractors])
    if others:
        whiten = fit_whitening(features(others))
        queries, database = whiten(queries), whiten(database)
    rankings = np.asarray(rank(queries, database))
    scores = [
        average_precision(positive_ranks(ranking, ours), len(ours))
        for ranking, ours in zip(rankings, positives, strict=True)
    ]
    top1 = np.mean([ranking[0] in ours for ranking, ours in zip(rankings, positives, strict=True)])
    metrics = {"map": 100 * float(np.mean(scores)), "top1": 100 * float(top1)}
    row = {"queries": len(copies), "originals": len(originals), "distractors": len(distractors)}
    return Report("copydetection", settings(args, model), metrics, [row | metrics])


def find_originals(copy: epath.Path, originals: Sequence[epath.Path]) -> list[int]:
    """Returns the indices of the originals whose names begin as that of a copy.

    Raises:
      UserError: if there is none.
    """
    found = [
        index
        for index, original in enumerate(originals)
        if original.name[:_PREFIX] == copy.name[:_PREFIX]
    ]
    if not found:
        raise UserError(
            f"{copy} has no original: no name in {originals[0].parent} begins with "
            f"{copy.name[:_PREFIX]!r}"
        )
    return found


def make_copy_fn(model: Model) -> FeatureFn:
    """Returns the function from (params, images) to class tokens and GeM means, [B, 2 D]."""

    def features(params, images):
        tokens = model.features(params, model.whole_patches(images))
        patches = jnp.maximum(tokens.patches, 1e-6)
        gem = jnp.mean(patches**_POWER, axis=(1, 2)) ** (1 / _POWER)
        return jnp.concatenate([tokens.cls, gem], axis=-1)

    return features


def square_batches(
    files: Sequence[epath.Path], size: int, decoding: Decoding, rows: Rows
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of the images of files as `extract` takes them, all with the label 0."""

    def read(path):
        return [to_square(read_image(path, decoding), size, decoding)]

    blank = [np.zeros((size, size, decoding.channels), np.uint8)]
    batches = share_batches(read, files, blank, rows)
    batches = progress(in_step(batches), -(-len(files) // rows.batch_size), "features")
    for ((images,), valid), _ in batches:
        yield {"images": images, "labels": np.zeros(len(images), np.int32), "valid": valid}


def rank(queries: np.ndarray, database: np.ndarray) -> jax.Array:
    """Returns for each query the indices of the nearest by cosine, at most 20, [Q, 20] int32."""
    queries, database = (unit(jnp.asarray(x, jnp.float32)) for x in (queries, database))
    similarity = jnp.matmul(queries, database.T, precision="highest")
    return jax.lax.top_k(similarity, min(_RETRIEVED, len(database)))[1]
