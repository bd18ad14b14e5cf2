"""Images and measured depths of their pixels, in the layouts of NYUd, KITTI and SUN RGB-D."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.depth.views import draw
from ibot_jax.evaluate.benchmarks.image_files import (
    open_unchanged,
    read_image,
    require_folder,
    share_batches,
)
from ibot_jax.evaluate.benchmarks.segmentation_views import resized
from ibot_jax.evaluate.measures import depth
from ibot_jax.parallel.shares import Rows

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Training:
    """How the training images of a layout are seen.

    Attributes:
      crop: height and width of what is cut out.
      brightness: the least and the largest factor.
      inner: the box of an image that it is cut out of.
    """

    crop: Size
    brightness: tuple[float, float]
    inner: depth.Box = depth.ALL


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, and what of it counts.

    Attributes:
      lists: files that name images and depths, of the training and of the test images.
      page: where the data are to be had.
      unit: of the numbers in depth files, in a metre.
      farthest: metres, of depths that count.
      box: of pixels that count, see `measures.depth`.
      box_of: height and width whose box that is; the image's own if None.
      nearest: metres, of depths that count.
      cap: metres that farther depths, measured and found, are taken for.
      images: folder of the images.
      depths: folder of the depths.
      rotated: bits by which the numbers in depth files are rotated to the left.
      size: height and width that images are cut to, at the bottom and in the middle; None keeps
        them.
      seen: height and width that test images are stretched to; None keeps them.
      training: how its training images are seen; None where it is only tested on.
    """

    lists: tuple[str, ...]
    page: str
    unit: float
    farthest: float
    box: depth.Box
    box_of: Size | None = None
    nearest: float = 1e-3
    cap: float = math.inf
    images: str = ""
    depths: str = ""
    rotated: int = 0
    size: Size | None = None
    seen: Size | None = None
    training: Training | None = None


LAYOUTS = {
    "nyu": Layout(
        lists=("nyu_train.txt", "nyu_test.txt"),
        page="cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
        unit=1000,
        farthest=10,
        box=depth.EIGEN,
        training=Training(
            crop=(416, 544),
            brightness=(0.75, 1.25),
            inner=(45 / 480, 472 / 480, 43 / 640, 608 / 640),  # without the white frame
        ),
    ),
    "kitti": Layout(
        lists=("kitti_eigen_train.txt", "kitti_eigen_test.txt"),
        page="www.cvlibs.net/datasets/kitti/eval_depth.php",
        unit=256,
        farthest=80,
        box=depth.GARG,
        images="input",
        depths="gt_depth",
        size=(352, 1216),
        training=Training(crop=(352, 704), brightness=(0.9, 1.1)),
    ),
}

# As the toolbox measures it, at the size that DINOv2's configs say.
SUN_RGBD = Layout(
    lists=("SUNRGBD_val_splits.txt",),
    page="rgbd.cs.princeton.edu; the list: github.com/zhyever/Monocular-Depth-Estimation-Toolbox",
    unit=1000,
    farthest=10,
    box=depth.EIGEN,
    box_of=(480, 640),
    cap=8,
    rotated=3,
    seen=(480, 640),
)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their depths.

    Attributes:
      images: files.
      depths: the file of each image.
      layout: how they are read.
      decoding: how files become pixels.
    """

    images: list[epath.Path]
    depths: list[epath.Path]
    layout: Layout
    decoding: Decoding

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image [H, W, C] uint8 and its depths, see `read_depth`.

        Raises:
          UserError: if one cannot be read, or they are not of one size.
        """
        pixels = self._cut(read_image(self.images[index], self.decoding), self.images[index])
        metres = self.read_depth(index)
        if pixels.shape[:2] != metres.shape:
            raise UserError(
                f"{self.images[index]} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but "
                f"{self.depths[index]} {metres.shape[0]}x{metres.shape[1]}"
            )
        return pixels, metres

    def read_depth(self, index: int) -> np.ndarray:
        """Returns the depths of an image, [H, W] float32, metres, 0 where there are none.

        Raises:
          UserError: if they cannot be read.
        """
        path = self.depths[index]
        image = open_unchanged(path)
        if not image.mode.startswith("I"):
            raise UserError(f"{path} holds {image.mode}, not depths (greys of 16 bits)")
        numbers, bits = np.asarray(image), self.layout.rotated
        if bits:
            numbers = numbers.astype(np.uint16)
            numbers = numbers >> bits | numbers << (16 - bits)
        metres = self._cut(numbers.astype(np.float32), path) / np.float32(self.layout.unit)
        return np.minimum(metres, np.float32(self.layout.cap))

    def _cut(self, pixels: np.ndarray, path: epath.Path) -> np.ndarray:
        """Returns what the layout keeps of pixels, [H, W, ...]."""
        if self.layout.size is None:
            return pixels
        (height, width), (rows, columns) = self.layout.size, pixels.shape[:2]
        if rows < height or columns < width:
            raise UserError(
                f"{path} has {rows}x{columns} pixels, and {height}x{width} are cut out of it "
                "(wrong --layout?)"
            )
        left = (columns - width) // 2
        return pixels[rows - height :, left : left + width]

    def size(self) -> Size:
        """Returns height and width of the first image, which are those of all."""
        return self.read_depth(0).shape

    def crops(
        self, order: Sequence[int], crop: Size, rows: Rows, seed: Sequence[int]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of random crops, see `views.draw`.

        Args:
          order: indices of images, the same on all processes, whole batches.
          crop: height and width.
          rows: of a batch of B that this process makes, b of them.
          seed: of crops, with the index of the image.

        Yields:
          Dicts of `images` [b, *crop, C] uint8 and `depths` [b, *crop] float32.
        """
        training = self.layout.training
        assert training is not None

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            pixels, metres = self.read(index)
            inner = depth.place(training.inner, metres.shape)
            pixels, metres = pixels[inner], metres[inner]
            height, width = metres.shape
            if height < crop[0] or width < crop[1]:
                raise UserError(
                    f"{self.images[index]} has {height}x{width} pixels to train on, fewer than "
                    f"--crop={crop[0]} {crop[1]}"
                )
            rng = np.random.default_rng([*seed, index])
            return draw(pixels, metres, crop, training.brightness, self.decoding, rng)

        blank = self._blank(crop), np.zeros(crop, np.float32)
        for batch, _ in share_batches(read, order, blank, rows):
            yield dict(zip(("images", "depths"), batch, strict=True))

    def whole(self, rows: Rows) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of whole images; the last is filled up with black.

        Raises:
          UserError: if images are of several sizes, and not stretched to one.
        """
        size = self.layout.seen or self.size()
        view = functools.partial(self._view, size)
        for (images,), _ in share_batches(view, range(len(self)), (self._blank(size),), rows):
            yield {"images": images}

    def _view(self, size: Size, index: int) -> tuple[np.ndarray]:
        """Returns a test image of (height, width), [*size, C] uint8."""
        pixels, _ = self.read(index)
        if self.layout.seen:
            pixels = resized(pixels, size, self.decoding)
        if pixels.shape[:2] != size:
            raise UserError(
                f"{self.images[index]} has {pixels.shape[0]}x{pixels.shape[1]} pixels, and "
                f"{self.images[0]} {size[0]}x{size[1]}; all must have as many"
            )
        return (pixels,)

    def _blank(self, size: Size) -> np.ndarray:
        return np.zeros((*size, self.decoding.channels), np.uint8)


def find_splits(layout: str, data: epath.Path, decoding: Decoding) -> list[Split]:
    """Finds the images to train with and those to measure, with their depths, see `find_split`."""
    described = LAYOUTS[layout]
    return [find_split(described, name, data, decoding) for name in described.lists]


def find_sun_rgbd(data: epath.Path, decoding: Decoding) -> Split:
    """Finds the images of SUN RGB-D to measure, with their depths, see `find_split`."""
    (name,) = SUN_RGBD.lists
    return find_split(SUN_RGBD, name, data, decoding)


def find_split(layout: Layout, name: str, data: epath.Path, decoding: Decoding) -> Split:
    """Finds the images that a list names, with their depths.

    A line of a list is an image, its depths and, in some, a focal length, which is not needed;
    images whose depths are "None" are left out.

    Raises:
      UserError: if something is absent.
    """
    listing = require_folder(data) / name
    if not listing.exists():
        raise UserError(f"{listing} is absent: lines of an image and its depths ({layout.page})")
    lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    pairs = [line[:2] for line in lines if len(line) > 1 and line[1] != "None"]
    if not pairs:
        raise UserError(f"{listing} names no image with depths")
    images, depths = (
        [data / folder / path.lstrip("/") for path in paths]
        for folder, paths in zip(
            (layout.images, layout.depths), zip(*pairs, strict=True), strict=True
        )
    )
    for file in (images[0], depths[0]):
        if not file.exists():
            raise UserError(f"{file} is absent, which {listing} names ({layout.page})")
    return Split(images, depths, layout, decoding)
