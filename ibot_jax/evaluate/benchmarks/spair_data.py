"""The files of SPair-71k: pairs of images of one category, with keypoints that correspond.

DATA/Layout/large/test.txt                      names of pairs, NAME:CATEGORY, one a line
DATA/PairAnnotation/test/NAME:CATEGORY.json     keypoints, boxes and sizes of both images
DATA/JPEGImages/CATEGORY/2008_000585.jpg
"""

import dataclasses
import functools
import json

import numpy as np
from etils import epath

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead, read_image, require_folder, to_square

SPLITS = ("trn", "val", "test")
_PAGE = "cvlab.postech.ac.kr/research/SPair-71k"


@dataclasses.dataclass(frozen=True)
class Side:
    """One image of a pair.

    Attributes:
      image: the file.
      points: [K, 2], (x, y) in pixels.
      size: height and width.
    """

    image: epath.Path
    points: np.ndarray
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images with as many keypoints, the one of which correspond to the other's.

    Attributes:
      category: of what they show.
      source: whose keypoints are given.
      target: in which they are looked for.
      box: of the target, (left, top, right, bottom) in pixels.
    """

    category: str
    source: Side
    target: Side
    box: tuple[float, float, float, float]


def find_pairs(data: epath.Path, split: str, layout: str) -> list[Pair]:
    """Finds the pairs of a split, category by category.

    Args:
      data: the folder SPair-71k.
      split: one of `SPLITS`.
      layout: "large" or "small".

    Raises:
      UserError: if something is absent, or an annotation does not say what it should.
    """
    listing = require_folder(data) / "Layout" / layout / f"{split}.txt"
    if not listing.exists():
        raise UserError(f"{listing} is absent: the names of the pairs of SPair-71k ({_PAGE})")
    names = listing.read_text().split()
    if not names:
        raise UserError(f"{listing} names no pair")
    folder = require_folder(data / "PairAnnotation" / split)
    pairs = list(ahead(functools.partial(_read_pair, data), [folder / f"{n}.json" for n in names]))
    return sorted(pairs, key=lambda pair: pair.category)


def read_square(side: Side, size: int, decoding: Decoding) -> np.ndarray:
    """Returns an image, stretched, [size, size, C] uint8.

    Raises:
      UserError: if it cannot be read, or has not the size that its annotation says.
    """
    pixels = read_image(side.image, decoding)
    if pixels.shape[:2] != side.size:
        raise UserError(
            f"{side.image} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but its annotations say "
            f"{side.size[0]}x{side.size[1]}"
        )
    return to_square(pixels, size, decoding)


def _read_pair(data: epath.Path, path: epath.Path) -> Pair:
    try:
        about = json.loads(path.read_text())
        category = about["category"]
        source, target = (_side(data, category, about, name) for name in ("src", "trg"))
        box = tuple(map(float, about["trg_bndbox"]))
    except FileNotFoundError:
        raise UserError(f"{path} is absent, which Layout asks for; see {_PAGE}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is no annotation of a pair ({type(error).__name__}: {error}); see {_PAGE}"
        ) from error
    if len(box) != 4 or not (box[2] > box[0] and box[3] > box[1]):
        raise UserError(f"{path} has the box {about['trg_bndbox']}, which holds nothing")
    if not len(source.points) or len(source.points) != len(target.points):
        raise UserError(
            f"{path} has {len(source.points)} and {len(target.points)} keypoints; both images of a "
            "pair have the same, one or more"
        )
    for side in (source, target):
        if (side.points < 0).any() or (side.points >= side.size[::-1]).any():
            raise UserError(
                f"{path} has a keypoint outside of {side.image.name}, which has "
                f"{side.size[0]}x{side.size[1]} pixels"
            )
    return Pair(category, source, target, box)


def _side(data: epath.Path, category: str, about: dict, name: str) -> Side:
    width, height = map(int, about[f"{name}_imsize"][:2])
    points = np.array(about[f"{name}_kps"], np.float32).reshape(-1, 2)
    image = data / "JPEGImages" / category / about[f"{name}_imname"]
    return Side(image, points, (height, width))
