"""Depth from frozen tokens, by a linear layer over bins or by DPT's head: RMSE and its relatives.

What it measures: whether tokens tell how far away a pixel is. As in DINOv2 (section 7.4), tokens
are not normalised. --decoder=linear: patch tokens of the last block (--blocks=1) or of four, evenly
spaced (--blocks=4), each with the class token beside it; 256 bins, enlarged four times.
--decoder=dpt: DPT's head on such four blocks, of a Swin on the last of each stage. The losses are
the scale-invariant one of logarithms and that of gradients; images are turned a little, mirrored,
cut and changed in colour; tested on whole images and their mirror images. --sun-rgbd: the head is
also measured there.

Data: --layout=nyu: DATA/nyu_train.txt and nyu_test.txt, lines of an image, its depths (PNG of 16
bits, millimetres) and a focal length, relative to DATA. --layout=kitti: likewise
DATA/kitti_eigen_train.txt and kitti_eigen_test.txt, of images in DATA/input and depths (256 a
metre) in DATA/gt_depth. --sun-rgbd: SUN/SUNRGBD_val_splits.txt, lines of an image and its depths,
relative to SUN.

    python -m ibot_jax.evaluate depth --from=runs/mine --data=DATA --layout=nyu
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.same_images import require_same_files
from ibot_jax.data.sources.shared_images import find_shared_files
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.depth.data import LAYOUTS, Layout, find_splits, find_sun_rgbd
from ibot_jax.evaluate.benchmarks.segmentation_views import resized, shorter_side
from ibot_jax.evaluate.common.memory import check_images
from ibot_jax.evaluate.common.opening import open_model, open_rows, settings, warn_of_shared
from ibot_jax.evaluate.common.report import Report, determining
from ibot_jax.evaluate.features.patch_maps import concatenated, in_whole_patches
from ibot_jax.evaluate.probes import depth_head, depth_training
from ibot_jax.evaluate.probes.depth_head import DepthHead, at_size
from ibot_jax.evaluate.probes.dpt_head import LAYERS, DPTHead
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import Rows
from ibot_jax.weights.model import Model

_SIZE = "image_size"  # a setting: height and width of the test images, on which no head depends


_RATES = {"linear": 3e-4, "dpt": 1e-4}  # by decoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="see above")
    group.add_argument(
        "--sun-rgbd", metavar="SUN", help="of --layout=nyu: a second set to measure on, see above"
    )
    group.add_argument(
        "--crop",
        nargs=2,
        type=flags.positive,
        metavar=("HEIGHT", "WIDTH"),
        help="what is trained on (default: 416 544 of nyu, 352 704 of kitti)",
    )
    flags.add(group, "--batch-size", default=16)
    group = parser.add_argument_group("head")
    group.add_argument(
        "--decoder", default="linear", choices=tuple(_RATES), help="see above (default: linear)"
    )
    flags.add(group, "--blocks", default=4, help="1 or 4, whose tokens it sees (default: 4)")
    flags.add_number(group, "--steps", 38_400, "of the training")
    group.add_argument(
        "--lr",
        type=flags.above_zero,
        metavar="RATE",
        help="largest learning rate "
        f"(default: {' '.join(f'{rate} of {head}' for head, rate in _RATES.items())})",
    )
    flags.add(group, "--seed", help="of the head, the order and the crops")


def run(args: argparse.Namespace) -> Report:
    """Trains a head on the training images and measures it on the others.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    chosen_blocks(model.geometry, args.decoder, args.blocks)  # before anything is read
    args.lr = args.lr or _RATES[args.decoder]
    if args.sun_rgbd and args.layout != "nyu":
        raise UserError(f"--sun-rgbd is for --layout=nyu, not --layout={args.layout}")
    with same_end():
        decoding = Decoding.of(model.config.data)
        train, test = find_splits(args.layout, absolute_path(args.data), decoding)
        tests = {"": test}
        if args.sun_rgbd:
            tests["sun_rgbd_"] = find_sun_rgbd(absolute_path(args.sun_rgbd), decoding)
        shared = find_shared_files(*(list(map(str, split.images)) for split in (train, test)))
    for split in (train, *tests.values()):
        require_same_files([*split.images, *split.depths], "--data or --sun-rgbd")
    warn_of_shared(
        shared, f"--data={args.data} to test on", "the training images", "mend the lists"
    )
    args.crop = list(args.crop or train.layout.training.crop)
    share = open_rows(args, mesh)
    if len(train) < args.batch_size:
        raise UserError(
            f"--batch-size={args.batch_size} is more than the {len(train)} training images"
        )
    with same_end():
        sizes = {name: split.layout.seen or split.size() for name, split in tests.items()}
    for size in (args.crop, *sizes.values()):
        whole = tuple(np.add(size, model.geometry.missing(size)).tolist())
        named = f"--batch-size={args.batch_size} of {size[0]}x{size[1]} pixels"
        check_images(named, len(share), whole, model)
    setting = _setting(args, model, params, share, mesh)
    about = settings(args, model) | {_SIZE: list(sizes[""])}
    head = depth_training.fit(setting, train, args.out, _of_training(about))
    rows, metrics = [], {}
    for prefix, split in tests.items():
        found = depth_training.measure(setting, head, split)
        rows.append({"data": prefix.strip("_") or args.layout, "images": len(split), **found})
        metrics |= {prefix + name: value for name, value in found.items()}
    return Report("depth", about, metrics, rows, shared_images=shared.count)


def _of_training(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings on which what is trained depends."""
    return determining(about, but=(_SIZE, "sun_rgbd"))


def _setting(
    args: argparse.Namespace, model: Model, params: Params, rows: Rows, mesh: jax.sharding.Mesh
) -> depth_training.Setting:
    blocks = chosen_blocks(model.geometry, args.decoder, args.blocks)
    return depth_training.Setting(
        head=make_head(model, args.decoder, blocks, LAYOUTS[args.layout]),
        params=params,
        mesh=mesh,
        rows=rows,
        steps=args.steps,
        learning_rate=args.lr,
        crop=tuple(args.crop),
        seed=args.seed,
    )


def reopen(
    args: argparse.Namespace,
    about: Mapping[str, Any],
    model: Model,
    params: Params,
    mesh: jax.sharding.Mesh,
) -> PixelModel:
    """Opens the head that `run` has trained.

    Images are seen with the shorter side of the test images, whole, and their mirror images.

    Args:
      args: the settled flags.
      about: the settings of the report.
      model: that --from names.
      params: its parameters, on all devices.
      mesh: the devices.

    Raises:
      UserError: if it is not there.
    """
    layout, decoding = LAYOUTS[args.layout], Decoding.of(model.config.data)
    setting = _setting(args, model, params, open_rows(args, mesh), mesh)
    head = depth_training.trained(setting, decoding.channels, args.out, _of_training(about))
    depth_fn = depth_training.make_depth_fn(setting, layout)
    jitted = jax.jit(depth_fn, out_shardings=replicated(mesh))
    height, width = about[_SIZE]

    def find(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for pixels in images:
            size = shorter_side(pixels.shape[:2], min(height, width))
            found = jitted(params, head, resized(pixels, size, decoding)[None])
            yield np.asarray(at_size(found, pixels.shape[:2]))[0]

    def as_image(found: np.ndarray) -> Image.Image:
        return Image.fromarray(np.round(layout.unit * found).astype(np.uint16))

    def as_colors(found: np.ndarray) -> np.ndarray:
        near = 1 / np.maximum(found, layout.nearest)  # changes more nearby, as what one sees
        greys = np.round(255 * (near - near.min()) / max(np.ptp(near), 1e-12)).astype(np.uint8)
        return np.repeat(greys[..., None], 3, axis=2)

    return PixelModel(
        finds="depths",
        values=f"{layout.unit} of them a metre, up to {layout.farthest} m",
        find=find,
        as_image=as_image,
        as_colors=as_colors,
        program=lambda images: {"depths": depth_fn(*jax.device_get((params, head)), images)},
        size=(height, width),
        takes="a whole image",
        gives="`depths` [B, H, W], metres, means of the image and its mirror image",
    )


def chosen_blocks(geometry: Geometry, decoder: str, number: int) -> tuple[int, ...]:
    """Returns the blocks whose tokens a head sees, counted from 0.

    Raises:
      UserError: if the backbone has not as many, or another number is asked for.
    """
    stages = geometry.depths
    if decoder == "dpt":
        if number != LAYERS:
            raise UserError(f"--blocks={number} is not for --decoder=dpt, which takes {LAYERS}")
        if 1 < len(stages) != LAYERS:
            raise UserError(f"--decoder=dpt takes {LAYERS} stages, and the model has {len(stages)}")
        if len(stages) > 1:
            return tuple(end - 1 for end in itertools.accumulate(stages))
    return spaced_blocks(geometry.depth, number)


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


def make_head(
    model: Model, name: str, blocks: Sequence[int], layout: Layout
) -> depth_training.Head:
    """Returns what is trained: "linear" or "dpt", on the tokens of some blocks."""
    if name == "dpt":
        dpt = DPTHead(layout.nearest)

        def layers(params, images):
            images = in_whole_patches(model, images)
            return model.layers(params, images, blocks, normalized=False, floats="normalized")

        return depth_training.Head(layers, dpt.start, dpt.depths)
    return depth_training.Head(
        make_patch_fn(model, blocks),
        DepthHead.start,
        functools.partial(depth_head.depths, nearest=layout.nearest, farthest=layout.farthest),
    )
