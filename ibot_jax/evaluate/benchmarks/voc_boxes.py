"""Images of PASCAL VOC and the boxes of their objects.

DATA/ImageSets/Main/trainval.txt   names of images, one a line
DATA/JPEGImages/000005.jpg
DATA/Annotations/000005.xml        their size, and each object's box
"""

import dataclasses
import functools
import xml.etree.ElementTree as ElementTree

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead, require_folder

_PAGE = "VOCdevkit/VOC2007 or VOC2012 of host.robots.ox.ac.uk/pascal/VOC"


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image and the boxes of what it shows.

    Attributes:
      image: the file.
      size: height and width.
      boxes: [N, 4] float64, (left, top, right, bottom) in pixels, a pixel's left edge being its
        number from 0 on; difficult and truncated objects, too.
    """

    image: epath.Path
    size: tuple[int, int]
    boxes: np.ndarray


def find_scenes(data: epath.Path, split: str) -> list[Scene]:
    """Finds the images of a split, with their boxes.

    Args:
      data: the folder VOC2007 or VOC2012.
      split: "trainval", "train", "val" or "test".

    Raises:
      UserError: if something is absent, or an annotation does not say what it should.
    """
    listing = require_folder(data) / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.exists():
        raise UserError(f"{listing} is absent: the names of the images ({_PAGE})")
    names = listing.read_text().split()
    if not names:
        raise UserError(f"{listing} names no image")
    return list(ahead(functools.partial(_read_scene, data), names))


def _read_scene(data: epath.Path, name: str) -> Scene:
    path = data / "Annotations" / f"{name}.xml"
    try:
        root = ElementTree.fromstring(path.read_text())
        size = tuple(int(root.findtext(f"size/{side}")) for side in ("height", "width"))
        boxes = [
            [float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iterfind("object/bndbox")
        ]
    except FileNotFoundError:
        raise UserError(f"{path} is absent: the boxes of an image ({_PAGE})") from None
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no annotation of VOC ({error}); see {_PAGE}") from error
    if not boxes:
        raise UserError(f"{path} names no object; each image of VOC shows one or more")
    # Annotations number pixels from 1 on, and a box has its last ones, too.
    found = np.array(boxes) - [1, 1, 0, 0]
    outside = (found[:, :2] < 0).any() or (found[:, 2:] > size[::-1]).any()
    if outside or (found[:, 2:] <= found[:, :2]).any():
        raise UserError(f"{path} has a box that does not fit its image of {size[0]}x{size[1]}")
    return Scene(data / "JPEGImages" / f"{name}.jpg", size, found)
