"""Depth from frozen patch tokens by a linear layer over bins: RMSE and its relatives.

What it measures: whether a patch token tells how far away its patch is. As in DINOv2 (section 7.4):
tokens of the last block (--blocks=1) or of four, evenly spaced (--blocks=4), not normalised, each
with the class token beside it; 256 bins, enlarged four times; the scale-invariant loss of
logarithms and that of gradients; random crops of images that are turned a little, mirrored and
changed in colour; tested on whole images and their mirror images.

Data: --layout=nyu: DATA/nyu_train.txt and nyu_test.txt, lines of an image, its depths (PNG of 16
bits, millimetres) and a focal length, relative to DATA. --layout=kitti: likewise
DATA/kitti_eigen_train.txt and kitti_eigen_test.txt, of images in DATA/input and depths (256 a
metre) in DATA/gt_depth.

    python -m ibot_jax.evaluate depth --from=runs/mine --data=DATA --layout=nyu
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.same_images import require_same_files
from ibot_jax.data.sources.shared_images import find_shared_files
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.depth.data import LAYOUTS, Split, find_splits
from ibot_jax.evaluate.benchmarks.image_files import ahead, list_images, read_image, write_png
from ibot_jax.evaluate.benchmarks.segmentation_views import resized, shorter_side
from ibot_jax.evaluate.common.opening import open_model, open_rows, settings, warn_of_shared
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.patch_maps import concatenated, in_whole_patches
from ibot_jax.evaluate.probes import depth_training
from ibot_jax.evaluate.probes.depth_head import DepthHead, at_size
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="see above")
    group.add_argument(
        "--crop",
        nargs=2,
        type=flags.positive,
        metavar=("HEIGHT", "WIDTH"),
        help="what is trained on (default: 416 544 of nyu, 352 704 of kitti)",
    )
    flags.add(group, "--batch-size", default=16)
    group.add_argument(
        "--predict", metavar="DIR", help="with images: also write the depths of their pixels"
    )
    group = parser.add_argument_group("head")
    flags.add(group, "--blocks", default=4, help="1 or 4, whose tokens it sees (default: 4)")
    flags.add_number(group, "--steps", 38_400, "of the training")
    flags.add_number(
        group, "--lr", 3e-4, "largest learning rate", kind=flags.above_zero, metavar="RATE"
    )
    flags.add(group, "--seed", help="of the head, the order and the crops")


def run(args: argparse.Namespace) -> Report:
    """Trains a head on the training images and measures it on the others.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    with same_end():
        decoding = Decoding.of(model.config.data)
        train, test = find_splits(args.layout, absolute_path(args.data), decoding)
        shared = find_shared_files(*(list(map(str, split.images)) for split in (train, test)))
    for split in (train, test):
        require_same_files([*split.images, *split.depths], f"--data={args.data}")
    warn_of_shared(
        shared, f"--data={args.data} to test on", "the training images", "mend the lists"
    )
    if args.predict:
        with same_end():
            images = list_images(absolute_path(args.predict))
    args.crop = tuple(args.crop or train.layout.crop)
    rows = open_rows(args, mesh)
    if len(train) < args.batch_size:
        raise UserError(
            f"--batch-size={args.batch_size} is more than the {len(train)} training images"
        )
    setting = depth_training.Setting(
        patch_fn=make_patch_fn(model, spaced_blocks(model.geometry.depth, args.blocks)),
        params=params,
        mesh=mesh,
        rows=rows,
        steps=args.steps,
        learning_rate=args.lr,
        crop=args.crop,
        seed=args.seed,
    )
    about = settings(args, model)
    of_training = {key: value for key, value in about.items() if key != "predict"}
    head = depth_training.fit(setting, train, args.out, of_training)
    metrics = depth_training.measure(setting, head, test)
    if args.predict:
        _predict(setting, head, test, images, absolute_path(args.out) / "depth")
    row = {"images": len(test), **metrics}
    return Report("depth", about, metrics, [row], shared_images=shared.count)


def _predict(
    setting: depth_training.Setting,
    head: DepthHead,
    test: Split,
    images: Sequence[epath.Path],
    folder: epath.Path,
) -> None:
    """Writes the depths of images as the data has them, PNG of 16 bits, FOLDER/NAME.png.

    Images are seen with the shorter side of the test images.
    """
    layout, decoding = test.layout, test.decoding
    depth_fn = depth_training.make_depth_fn(setting, layout)

    def read(path: epath.Path) -> tuple[tuple[int, int], np.ndarray]:
        pixels = read_image(path, decoding)
        size = shorter_side(pixels.shape[:2], min(test.size()))
        return pixels.shape[:2], resized(pixels, size, decoding)

    views = progress(ahead(read, images), len(images), "predictions")
    for path, (size, pixels) in zip(images, views, strict=True):
        found = at_size(depth_fn(setting.params, head, pixels[None]), size)
        metres = np.clip(np.asarray(found)[0], layout.nearest, layout.farthest)
        if is_first():
            values = Image.fromarray(np.round(layout.unit * metres).astype(np.uint16))
            write_png(values, folder / f"{path.stem}.png", "--out")


def spaced_blocks(depth: int, number: int) -> tuple[int, ...]:
    """Returns the last block, or four that are evenly spaced; blocks count from 0.

    3, 6, 9, 12 of 12, counted from 1, and 10, 20, 30, 40 of 40; of 24 blocks DINOv2 takes 5, 12, 18
    and 24.

    Raises:
      UserError: if there are fewer, or another number is asked for.
    """
    if number not in (1, 4):
        raise UserError(f"--blocks={number} is neither 1 nor 4")
    if number > depth:
        raise UserError(f"--blocks={number} is more than the {depth} of the model")
    if (depth, number) == (24, 4):
        return 4, 11, 17, 23
    return tuple(depth * (place + 1) // number - 1 for place in range(number))


def make_patch_fn(model: Model, wanted: Sequence[int]) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns (params, images [B, H, W, C] uint8) -> features of patches [B, h, w, F].

    Of each block the patch token, not normalised, and the class token beside it.
    """

    def patches(params, images):
        images = in_whole_patches(model, images)
        maps = []
        for tokens in model.layers(params, images, wanted, normalized=False, floats="normalized"):
            cls = jnp.broadcast_to(tokens.cls[:, None, None], tokens.patches.shape)
            maps += [tokens.patches, cls]
        return concatenated(maps)

    return patches
