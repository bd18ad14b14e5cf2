"""Images and measured depths of their pixels, in the layouts of NYUd and KITTI."""

import dataclasses
import functools
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
from ibot_jax.evaluate.measures import depth
from ibot_jax.parallel.shares import Rows

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, and what of it counts.

    Attributes:
      lists: files that name images and depths, of the training and of the test images.
      page: where the data are to be had.
      unit: of the numbers in depth files, in a metre.
      farthest: metres, of depths that count.
      box: of pixels that count, see `measures.depth`.
      crop: height and width of what is trained on.
      brightness: the least and the largest factor in training.
      images: folder of the images.
      depths: folder of the depths.
      nearest: metres, of depths that count.
      size: height and width that images are cut to, at the bottom and in the middle; None keeps
        them.
      inner: the box of an image that is trained on.
    """

    lists: tuple[str, str]
    page: str
    unit: float
    farthest: float
    box: depth.Box
    crop: Size
    brightness: tuple[float, float]
    images: str = ""
    depths: str = ""
    nearest: float = 1e-3
    size: Size | None = None
    inner: depth.Box = depth.ALL


LAYOUTS = {
    "nyu": Layout(
        lists=("nyu_train.txt", "nyu_test.txt"),
        page="cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
        unit=1000,
        farthest=10,
        box=depth.EIGEN,
        crop=(416, 544),
        brightness=(0.75, 1.25),
        inner=(45 / 480, 472 / 480, 43 / 640, 608 / 640),  # without the white frame
    ),
    "kitti": Layout(
        lists=("kitti_eigen_train.txt", "kitti_eigen_test.txt"),
        page="www.cvlibs.net/datasets/kitti/eval_depth.php",
        unit=256,
        farthest=80,
        box=depth.GARG,
        crop=(352, 704),
        brightness=(0.9, 1.1),
        images="input",
        depths="gt_depth",
        size=(352, 1216),
    ),
}


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
        return self._cut(np.asarray(image).astype(np.float32), path) / np.float32(self.layout.unit)

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

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            pixels, metres = self.read(index)
            inner = depth.place(self.layout.inner, metres.shape)
            pixels, metres = pixels[inner], metres[inner]
            height, width = metres.shape
            if height < crop[0] or width < crop[1]:
                raise UserError(
                    f"{self.images[index]} has {height}x{width} pixels to train on, fewer than "
                    f"--crop={crop[0]} {crop[1]}"
                )
            rng = np.random.default_rng([*seed, index])
            return draw(pixels, metres, crop, self.layout.brightness, self.decoding, rng)

        for batch, _ in share_batches(read, order, self._blank(crop), rows):
            yield dict(zip(("images", "depths"), batch, strict=True))

    def whole(self, rows: Rows) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of whole images; the last is filled up with black.

        Raises:
          UserError: if images are of several sizes.
        """
        size = self.size()
        read = functools.partial(self._read_of_size, size)
        for (images, _), _ in share_batches(read, range(len(self)), self._blank(size), rows):
            yield {"images": images}

    def _read_of_size(self, size: Size, index: int) -> tuple[np.ndarray, np.ndarray]:
        both = self.read(index)
        if both[1].shape != size:
            raise UserError(
                f"{self.images[index]} has {both[1].shape[0]}x{both[1].shape[1]} pixels, and "
                f"{self.images[0]} {size[0]}x{size[1]}; all must have as many"
            )
        return both

    def _blank(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((*size, self.decoding.channels), np.uint8), np.zeros(size, np.float32)


def find_splits(layout: str, data: epath.Path, decoding: Decoding) -> tuple[Split, Split]:
    """Finds the images to train with and those to measure, with their depths.

    A line of a list is an image, its depths and the focal length, which is not needed; images
    whose depths are "None" are left out.

    Raises:
      UserError: if something is absent.
    """
    described = LAYOUTS[layout]
    require_folder(data)
    splits = []
    for name in described.lists:
        listing = data / name
        if not listing.exists():
            raise UserError(
                f"{listing} is absent: lines of an image, its depths, a focal length "
                f"({described.page})"
            )
        lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        pairs = [line[:2] for line in lines if len(line) > 1 and line[1] != "None"]
        if not pairs:
            raise UserError(f"{listing} names no image with depths")
        images, depths = (
            [data / folder / path.lstrip("/") for path in paths]
            for folder, paths in zip(
                (described.images, described.depths), zip(*pairs, strict=True), strict=True
            )
        )
        for file in (images[0], depths[0]):
            if not file.exists():
                raise UserError(f"{file} is absent, which {listing} names")
        splits.append(Split(images, depths, described, decoding))
    return tuple(splits)
