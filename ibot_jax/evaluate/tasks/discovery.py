"""Unsupervised object discovery: one box an image, by LOST and TokenCut (PASCAL VOC), CorLoc.

What it measures: whether the patches of an object are alike, and unlike the rest. From the keys of
the last block, of the whole image in its own size, two methods tell one box, without training:
LOST (Simeoni et al., arXiv 2109.14279), around the patch that is like the fewest others, and
TokenCut (Wang et al., arXiv 2202.11539), by the normalised cut of the graph of patches. CorLoc is
the share of images whose box overlaps that of an object, one of the difficult and the truncated,
too, by an IoU of 0.5 or more.

Data: VOCdevkit/VOC2007 or VOC2012 (host.robots.ox.ac.uk/pascal/VOC): DATA/JPEGImages/*.jpg,
DATA/Annotations/*.xml, DATA/ImageSets/Main/SPLIT.txt.

    python -m ibot_jax.evaluate discovery --from=runs/mine --data=VOCdevkit/VOC2007
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import (
    ahead,
    as_colors,
    read_image,
    spread,
    write_png,
)
from ibot_jax.evaluate.benchmarks.voc_boxes import Scene, find_scenes
from ibot_jax.evaluate.common.opening import open_model, settings
from ibot_jax.evaluate.common.report import Report, determining
from ibot_jax.evaluate.measures import objects
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.pixels import normalize
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

METHODS = ("lost", "tokencut")
_COLORS = {"lost": (60, 130, 250), "tokencut": (240, 40, 40)}
_TRUE = (40, 220, 60)
_FOUND = 0.5  # IoU
_KEPT_EVERY = 64  # images

# (params, image [H, W, C] uint8) -> features of patches [h, w, D]
MapFn = Callable[[Any, np.ndarray], jax.Array]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder with ImageSets in it")
    group.add_argument("--split", default="trainval", help="SPLIT (default: trainval)")
    group.add_argument(
        "--max-images",
        default=0,
        type=flags.natural,
        metavar="N",
        help="N images, evenly spaced, for a first look (default: all)",
    )
    flags.add_number(
        group, "--pictures", 0, "the first N images are drawn, OUT/discovery", kind=flags.natural
    )
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--methods",
        default=METHODS,
        type=flags.sequence(flags.one_of(METHODS)),
        metavar="METHOD,...",
        help="lost, tokencut or both (default: lost,tokencut)",
    )
    group.add_argument(
        "--features",
        default="keys",
        choices=("keys", "patches"),
        help="keys of the last block, as published, or its normalised patch tokens (default: keys)",
    )
    flags.add_number(group, "--seed-patches", 100, "of LOST, that may join the seed")
    group.add_argument(
        "--tau", default=0.2, type=flags.share, metavar="T", help="of TokenCut (default: 0.2)"
    )


def run(args: argparse.Namespace) -> Report:
    """Finds an object in every image.

    Raises:
      UserError: for what the user can mend.
    """
    with same_end():
        scenes = spread(find_scenes(absolute_path(args.data), args.split), args.max_images)
    # Images differ in size, so they go through one device, one by one.
    model, params = open_model(args, make_mesh(jax.local_devices()[:1]))
    map_fn, decoding = make_map_fn(model, args.features), Decoding.of(model.config.data)
    known = {
        "lost": functools.partial(objects.lost, patches=args.seed_patches),
        "tokencut": functools.partial(objects.token_cut, threshold=args.tau),
    }
    methods = {name: known[name] for name in args.methods}
    find = functools.partial(discover, map_fn, params, methods, decoding, model.geometry)
    about = settings(args, model)
    kept = Kept(args.out, "discovery", determining(about, but=("pictures",)))
    boxes = search(find, scenes, len(methods), kept)
    with same_end():
        for scene, of_scene in list(zip(scenes, boxes, strict=True))[: args.pictures]:
            if is_first():
                picture = draw(scene, dict(zip(methods, of_scene, strict=True)), decoding)
                target = absolute_path(args.out) / "discovery" / f"{scene.image.stem}.png"
                write_png(picture, target, "--out")
    rows = []
    for name, of_method in zip(methods, np.moveaxis(boxes, 1, 0), strict=True):
        pairs = zip(of_method, scenes, strict=True)
        hits = [objects.overlaps(box, scene.boxes).max() >= _FOUND for box, scene in pairs]
        rows.append({"method": name, "images": len(hits), "corloc": 100 * float(np.mean(hits))})
    metrics = {f"{row['method']}_corloc": row["corloc"] for row in rows}
    return Report("discovery", about, metrics, rows)


def search(
    find: Callable[[Sequence[Scene]], Iterator[np.ndarray]],
    scenes: Sequence[Scene],
    methods: int,
    kept: Kept,
) -> np.ndarray:
    """Returns the boxes of all images, [N, methods, 4]; goes on where it was interrupted.

    Args:
      find: the boxes [methods, 4] of each of some images, in order.
      scenes: the images.
      methods: how many there are.
      kept: what was found earlier, and where it is written every 64 images.

    Raises:
      UserError: for an image that cannot be read, or if what was kept is damaged.
    """
    boxes = kept.rows("boxes", (methods, 4), len(scenes))
    done = len(boxes)

    def others() -> Iterator[np.ndarray]:
        for first in range(done, len(scenes), _KEPT_EVERY):
            with same_end():
                found = list(find(scenes[first : first + _KEPT_EVERY]))
            yield from found
            boxes.extend(found)
            kept.write({"boxes": np.stack(boxes)})

    for _ in progress(others(), len(scenes), "images", start=done):
        pass
    return np.stack(boxes)


def make_map_fn(model: Model, kind: str) -> MapFn:
    """Returns the function from (params, image) to features of patches.

    Images are filled up with the mean colour to whole patches, at the bottom and on the right. One
    program is compiled for each size.

    Args:
      model: whose features.
      kind: "keys" or "patches".
    """
    data = model.config.data

    @jax.jit
    def features(params, image):
        image = normalize(image, data.mean, data.std, jnp.float32)
        missing = model.geometry.missing(image.shape[:2])
        image = jnp.pad(image, (*((0, side) for side in missing), (0, 0)))[None]
        if kind == "keys":
            return model.attention(params, image, floats="normalized").keys[0]
        return model.features(params, image, floats="normalized").patches[0]

    return features


def discover(
    map_fn: MapFn,
    params: Any,
    methods: dict[str, Callable[[np.ndarray], objects.Box]],
    decoding: Decoding,
    geometry: Geometry,
    scenes: Sequence[Scene],
) -> Iterator[np.ndarray]:
    """Yields what methods find in each image: [methods, 4], left, top, right, bottom in pixels.

    The device computes the features of an image while those before it are searched in threads.

    Raises:
      UserError: if an image cannot be read, or has not the size that its annotation says.
    """

    def read(scene: Scene) -> np.ndarray:
        pixels = read_image(scene.image, decoding)
        if pixels.shape[:2] != scene.size:
            raise UserError(
                f"{scene.image} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but its annotation "
                f"says {scene.size[0]}x{scene.size[1]}"
            )
        return pixels

    def in_image(item: tuple[tuple[int, int], jax.Array]) -> np.ndarray:
        (height, width), features = item
        features, found = np.asarray(features), []
        for method in methods.values():
            box = method(features)
            top, left = geometry.size(box[:2])
            bottom, right = geometry.size(box[2:])
            found.append([left, top, min(right, width), min(bottom, height)])
        return np.array(found, float)

    items = ((pixels.shape[:2], map_fn(params, pixels)) for pixels in ahead(read, scenes))
    return ahead(in_image, items)


def draw(scene: Scene, boxes: dict[str, np.ndarray], decoding: Decoding) -> Image.Image:
    """Returns the image with the boxes of its objects, green, and those that methods found."""
    picture = Image.fromarray(np.ascontiguousarray(as_colors(read_image(scene.image, decoding))))
    pen = ImageDraw.Draw(picture)
    colored = [(box, _TRUE) for box in scene.boxes]
    colored += [(box, _COLORS[name]) for name, box in boxes.items()]
    for box, color in colored:
        pen.rectangle([*box[:2], *(box[2:] - 1)], outline=color, width=3)
    return picture
