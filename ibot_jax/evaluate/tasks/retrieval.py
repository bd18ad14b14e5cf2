"""Retrieval of buildings: revisited Oxford and Paris, mAP and mP@1/5/10.

What it measures: whether images of one building lie close together, whatever else they show. All
images are ranked by the cosine similarity of their class token to that of what a query's box shows;
nothing is trained. As in the original (paper, appendix) and in DINO: the longer side is reduced to
512 pixels, never enlarged, and the features of three scales (1, 0.71, 0.5) are averaged; but these
rank by whole query images. Setups are easy, medium and hard; what counts in another one only is
taken out of the ranking (arXiv 1803.11285).

Data: DATA/NAME/gnd_NAME.pkl, the published ground truth, in which no program is run, and the images
DATA/NAME/jpg/*.jpg, where NAME is roxford5k or rparis6k.

    python -m ibot_jax.evaluate retrieval --from=runs/mine --data=DATA --dataset=roxford5k
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead, changed, read_image
from ibot_jax.evaluate.benchmarks.revisited import measure, read_benchmark
from ibot_jax.evaluate.common.opening import open_model, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.measures.cosine import unit
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.pixels import normalize
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

SCALES = (1.0, 2**-0.5, 0.5)
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder with NAME in it")
    group.add_argument(
        "--dataset",
        default="roxford5k",
        choices=("roxford5k", "rparis6k"),
        help="NAME (default: roxford5k)",
    )
    flags.add(group, "--size", nargs=None, default=512, help="largest side of an image")
    group.add_argument(
        "--single-scale", action="store_true", help="features of the whole size only"
    )


def run(args: argparse.Namespace) -> Report:
    """Ranks all images for all queries and measures the rankings.

    Raises:
      UserError: for what the user can mend.
    """
    with same_end():
        benchmark = read_benchmark(absolute_path(args.data), args.dataset)
    # Images differ in size, so they go through one device, one by one.
    model, params = open_model(args, make_mesh(jax.local_devices()[:1]))
    describe = make_describe(model, SCALES[:1] if args.single_scale else SCALES)
    describe = functools.partial(describe, params)
    size, decoding = args.size, Decoding.of(model.config.data)
    with same_end():
        database = features(describe, [(path, None) for path in benchmark.database], size, decoding)
        queries = features(describe, [(q.image, q.box) for q in benchmark.queries], size, decoding)
    rankings = np.argsort(-np.asarray(similarity(queries, database)), axis=1, kind="stable")
    rows = measure(rankings, benchmark.queries)
    metrics = {
        f"{row['setup']}_{name}": value
        for row in rows
        for name, value in row.items()
        if name not in ("setup", "queries")
    }
    return Report("retrieval", settings(args, model), metrics, rows)


def similarity(queries: np.ndarray, database: np.ndarray) -> jax.Array:
    """Returns the cosines of features of length 1, [Q, D] and [M, D], as [Q, M] float32."""
    return jnp.matmul(queries, database.T, precision="highest")


def make_describe(
    model: Model, scales: tuple[float, ...]
) -> Callable[[Any, np.ndarray], jax.Array]:
    """Returns the function from (params, pixels [H, W, C] uint8) to a feature [D] of length 1.

    It is the mean of the class tokens at all scales. One program is compiled for each number of
    patch rows and columns.
    """
    data = model.config.data

    @jax.jit
    def class_token(params, image):
        return model.features(params, image[None], floats="normalized").cls[0]

    def describe(params, pixels):
        image = normalize(jnp.asarray(pixels), data.mean, data.std, jnp.float32)
        tokens = [
            class_token(params, _whole_patches(_rescale(image, scale), model.geometry))
            for scale in scales
        ]
        return unit(jnp.mean(jnp.stack(tokens), axis=0))

    return describe


def features(
    describe: Callable[[np.ndarray], jax.Array],
    images: Sequence[tuple[epath.Path, Box | None]],
    size: int,
    decoding: Decoding,
) -> np.ndarray:
    """Computes the feature of each image, [M, D], while the next ones are read.

    Args:
      describe: from pixels [H, W, C] uint8 to a feature [D].
      images: files, and the box that is cut out of each.
      size: largest side of what is described, pixels.
      decoding: how files become pixels.

    Raises:
      UserError: if an image cannot be read or is too small.
    """
    rows = []
    read = functools.partial(_read, size=size, decoding=decoding)
    pixels_of = progress(ahead(read, images), len(images), "features")
    for (path, _), pixels in zip(images, pixels_of, strict=True):
        try:
            row = describe(pixels)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        if rows:
            rows[-1] = np.asarray(rows[-1])  # no more than one image waits for the device
        rows.append(row)
    return np.stack(rows)


def _read(image: tuple[epath.Path, Box | None], *, size: int, decoding: Decoding) -> np.ndarray:
    path, box = image

    def shrunk(picture: Image.Image) -> Image.Image:
        if box is not None:
            picture = picture.crop(box)
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        return picture

    return changed(read_image(path, decoding), shrunk, decoding)


def _rescale(image: jax.Array, scale: float) -> jax.Array:
    """Bilinear without antialiasing, the shape rounded down, as PyTorch's `interpolate` does."""
    if scale == 1:
        return image
    height, width, channels = image.shape
    return jax.image.scale_and_translate(
        image,
        (int(height * scale), int(width * scale), channels),
        (0, 1),
        jnp.full(2, scale, jnp.float32),
        jnp.zeros(2),
        "linear",
        antialias=False,
    )


def _whole_patches(image: jax.Array, geometry: Geometry) -> jax.Array:
    size = image.shape[:2]
    height, width = geometry.whole(size)
    if not height * width:
        raise ValueError(
            f"at {size[0]}x{size[1]} pixels it is smaller than a patch of {geometry.stride}; give "
            "a larger --size, or --single-scale"
        )
    return image[:height, :width]
