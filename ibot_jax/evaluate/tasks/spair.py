"""Semantic correspondence: keypoints of an object found on another of its category (SPair-71k).

What it measures: whether patches of the same part are alike on different things. As DIFT measures
it (Tang et al., arXiv 2306.03881): images are stretched to squares of --size pixels, patch tokens
of the last block enlarged bilinearly to the image, and a keypoint is looked for at the pixel with
the largest cosine. It is found if it is off by no more than alpha times the longer side of the
target's box: PCK at alpha 0.05, 0.1 and 0.15, the mean over images (pairs), over all points, and
over the categories' shares of points. Nothing is trained.

Data: SPair-71k (cvlab.postech.ac.kr/research/SPair-71k): DATA/Layout/large/SPLIT.txt,
DATA/PairAnnotation/SPLIT/*.json, DATA/JPEGImages/CATEGORY/*.jpg.

    python -m ibot_jax.evaluate spair --from=runs/mine --data=DATA
"""

import argparse
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.same_images import require_same_files
from ibot_jax.evaluate.benchmarks.image_files import (
    as_colors,
    read_image,
    share_batches,
    spread,
    write_png,
)
from ibot_jax.evaluate.benchmarks.spair_data import SPLITS, Pair, Side, find_pairs, read_square
from ibot_jax.evaluate.common.opening import open_model, open_squares, settings
from ibot_jax.evaluate.common.report import Report, determining
from ibot_jax.evaluate.features.extract import FeatureFn, extract
from ibot_jax.evaluate.features.patch_maps import make_patch_fn
from ibot_jax.evaluate.measures import keypoints
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end, until_told
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress

ALPHAS = (0.05, 0.1, 0.15)
_DRAWN = ALPHAS.index(0.1)  # by which pictures tell right from wrong
_KEPT_EVERY = 512  # pairs
_SIZE = 768  # at the most, unless told otherwise


@dataclasses.dataclass(frozen=True)
class Matcher:
    """A model that finds points, and how it sees images.

    Attributes:
      patch_fn: (params, images [B, S, S, C] uint8) -> features of patches [B, h, w, F].
      params: its parameters, on all devices.
      size: side of the squares, S.
      decoding: how files become pixels.
      rows: of a batch that this process makes.
      mesh: the devices.
    """

    patch_fn: FeatureFn
    params: Any
    size: int
    decoding: Decoding
    rows: Rows
    mesh: jax.sharding.Mesh

    def find(self, pairs: Sequence[Pair]) -> Iterator[np.ndarray]:
        """Yields where each pair's source points are in its target, [K, 2] (x, y), in order.

        Features are kept of one category at a time.
        """
        most = max(len(pair.source.points) for pair in pairs)
        sizes = [pair.target.size for pair in pairs]
        program = _make_program(tuple(map(max, zip(*sizes, strict=True))), self.mesh)
        for _, group in itertools.groupby(pairs, operator.attrgetter("category")):
            of_category = list(group)
            sides = {
                side.image: side for pair in of_category for side in (pair.source, pair.target)
            }
            maps = self._maps(list(sides.values()))
            places = {image: index for index, image in enumerate(sides)}
            read = functools.partial(_operands, maps=maps, places=places, most=most)
            blank = [np.zeros_like(x) for x in read(of_category[0])]
            blank[2:4] = [np.ones_like(x) for x in blank[2:4]]  # sizes, by which is divided
            names = "source", "target", "source_size", "target_size", "points"
            left = iter(of_category)
            batches = share_batches(read, of_category, blank, self.rows)
            for arrays, _ in until_told(batches):
                batch = to_global(dict(zip(names, arrays, strict=True)), self.mesh)
                found = np.asarray(program(batch))
                for pair, points in zip(itertools.islice(left, len(found)), found, strict=False):
                    yield points[: len(pair.source.points)]

    def _maps(self, sides: Sequence[Side]) -> np.ndarray:
        """Returns the features of images, [M, h, w, F], on all processes."""

        def read(side: Side) -> tuple[np.ndarray]:
            return (read_square(side, self.size, self.decoding),)

        blank = [np.zeros((self.size, self.size, self.decoding.channels), np.uint8)]
        batches = (
            {"images": images, "labels": np.zeros(len(valid), np.int32), "valid": valid}
            for (images,), valid in share_batches(read, sides, blank, self.rows)
        )
        return extract(self.patch_fn, self.params, until_told(batches), self.mesh)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder SPair-71k")
    group.add_argument("--split", default="test", choices=SPLITS, help="(default: test)")
    group.add_argument(
        "--layout", default="large", choices=("large", "small"), help="(default: large)"
    )
    flags.add(
        group,
        "--size",
        nargs=None,
        help="side of the squares of images (default: the largest of whole patches up to 768)",
    )
    flags.add(group, "--batch-size", default=16)
    group.add_argument(
        "--max-pairs",
        default=0,
        type=flags.natural,
        metavar="N",
        help="N pairs, evenly spaced, for a first look (default: all)",
    )
    flags.add_number(
        group, "--pictures", 0, "the first N pairs are drawn, OUT/spair/*.png", kind=flags.natural
    )


def run(args: argparse.Namespace) -> Report:
    """Looks for the keypoints of all pairs.

    Raises:
      UserError: for what the user can mend.
    """
    data = absolute_path(args.data)
    with same_end():
        pairs = spread(find_pairs(data, args.split, args.layout), args.max_pairs)
    require_same_files([pair.source.image for pair in pairs], f"--data={args.data}")
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    rows = open_squares(args, model, mesh, _SIZE)
    decoding = Decoding.of(model.config.data)
    matcher = Matcher(make_patch_fn(model), params, args.size, decoding, rows, mesh)
    about = settings(args, model)
    kept = Kept(args.out, "spair", determining(about, but=("pictures", "batch_size")))
    points = search(matcher.find, pairs, kept)
    found = [
        keypoints.correct(x[: len(pair.target.points)], pair.target.points, pair.box, ALPHAS)
        for x, pair in zip(points, pairs, strict=True)
    ]
    with same_end():
        for number in range(min(args.pictures, len(pairs)) if is_first() else 0):
            picture = draw(pairs[number], points[number], found[number][_DRAWN], decoding)
            name = f"{number + 1}-{pairs[number].category}.png"
            write_png(picture, absolute_path(args.out) / "spair" / name, "--out")
    table = summary([pair.category for pair in pairs], found)
    metrics = {name: value for name, value in table[-1].items() if isinstance(value, float)}
    for alpha in ALPHAS:
        metrics[f"categories_{alpha}"] = float(
            np.mean([row[f"points_{alpha}"] for row in table[:-1]])
        )
    return Report("spair", about, metrics, table)


def search(
    find: Callable[[Sequence[Pair]], Iterator[np.ndarray]], pairs: Sequence[Pair], kept: Kept
) -> np.ndarray:
    """Returns where the points of all pairs are, [N, K, 2]; goes on where it was interrupted.

    K is the largest number of points of a pair; behind its own a pair has zeros.

    Args:
      find: see `Matcher.find`.
      pairs: the pairs.
      kept: what was found earlier, and where it is written every 512 pairs.

    Raises:
      UserError: for an image that cannot be read, or if what was kept is damaged.
    """
    most = max(len(pair.source.points) for pair in pairs)
    points = kept.rows("points", (most, 2), len(pairs))
    left = pairs[len(points) :]
    if left:
        for found in progress(find(left), len(pairs), "pairs", start=len(points)):
            points.append(np.pad(found, ((0, most - len(found)), (0, 0))))
            if len(points) % _KEPT_EVERY == 0 or len(points) == len(pairs):
                kept.write({"points": np.stack(points)})
    return np.stack(points)


def summary(categories: Sequence[str], found: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Returns a row for each category, and for all.

    Args:
      categories: of the pairs.
      found: which points of each pair were found at each of `ALPHAS`, [A, K] bool.
    """
    rows = []
    for category in [*sorted(set(categories)), "all"]:
        own = [x for name, x in zip(categories, found, strict=True) if category in (name, "all")]
        points = np.concatenate(own, axis=1)
        images = np.stack([of_pair.mean(axis=1) for of_pair in own], axis=1)
        row = {"category": category, "pairs": len(own), "points": points.shape[1]}
        for kind, shares in (("images", images), ("points", points)):
            for alpha, share in zip(ALPHAS, shares.mean(axis=1), strict=True):
                row[f"{kind}_{alpha}"] = 100 * float(share)
        rows.append(row)
    return rows


def draw(pair: Pair, points: np.ndarray, right: np.ndarray, decoding: Decoding) -> Image.Image:
    """Returns both images beside each other: lines to what was found, red where that is wrong."""
    sides = [
        Image.fromarray(as_colors(read_image(side.image, decoding)))
        for side in (pair.source, pair.target)
    ]
    sheet = Image.new("RGB", (sum(x.width for x in sides), max(x.height for x in sides)))
    for image, left in zip(sides, (0, sides[0].width), strict=True):
        sheet.paste(image, (left, 0))
    pen = ImageDraw.Draw(sheet)
    for start, end, good in zip(pair.source.points, points, right, strict=False):
        color = (40, 220, 60) if good else (240, 40, 40)
        pen.line([tuple(start), (end[0] + sides[0].width, end[1])], fill=color, width=2)
    return sheet


def _operands(
    pair: Pair, *, maps: np.ndarray, places: Mapping[epath.Path, int], most: int
) -> list[np.ndarray]:
    """Returns what the points of a pair are found by: see `_make_program`."""
    points = np.zeros((most, 2), np.float32)
    points[: len(pair.source.points)] = pair.source.points
    grids = [maps[places[side.image]] for side in (pair.source, pair.target)]
    sizes = [np.array(side.size, np.float32) for side in (pair.source, pair.target)]
    return [*grids, *sizes, points]


def _make_program(canvas: tuple[int, int], mesh: jax.sharding.Mesh):
    """Returns the function of a batch of pairs to where points are, [B, K, 2]."""

    def find(batch: dict[str, jax.Array]) -> jax.Array:
        vectors = keypoints.at_points(batch["source"], batch["points"], batch["source_size"])
        return keypoints.nearest_pixels(batch["target"], vectors, batch["target_size"], canvas)

    return jax.jit(jax.vmap(find), out_shardings=replicated(mesh))
