"""Classes of the pixels of an image of any size, by the scores of windows that slide over it.

Windows of W pixels lie every few pixels, the last ones moved inside; where some overlap, their
scores are averaged. All of it is linear: scores of h x w cells are enlarged to the window, put in
their place, averaged and resized to the annotation by one matrix for rows and one for columns.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.evaluate.features import bilinear

Size = tuple[int, int]

_STRIP = 64  # rows of pixels whose scores are there at a time; sizes are rounded up to it


class View(NamedTuple):
    """What was found of an image at one size, and how it becomes scores of pixels.

    Attributes:
      scores: [r h, c w, C], of the cells of r x c windows, side by side.
      rows: [H, r h], shares of cells in rows of pixels.
      columns: [W, c w], likewise of columns.
    """

    scores: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of images of one size.

    Attributes:
      size: height and width of the images.
      crop: side of the windows, W; of smaller images they are as high or as wide as those, and
        where both sides are smaller squares of the shorter one (DINOv3's).
      stride: from one window to the next.
    """

    size: Size
    crop: int
    stride: int

    @property
    def window(self) -> Size:
        """Height and width of the windows."""
        if max(self.size) < self.crop:
            return min(self.size), min(self.size)
        height, width = (min(side, self.crop) for side in self.size)
        return height, width

    @property
    def starts(self) -> tuple[list[int], list[int]]:
        """Where windows start, rows and columns."""
        tops, lefts = (
            starts(side, window, self.stride)
            for side, window in zip(self.size, self.window, strict=True)
        )
        return tops, lefts

    def __len__(self) -> int:
        tops, lefts = self.starts
        return len(tops) * len(lefts)

    def cut(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Returns the windows of an image [H, W, ...], row by row."""
        height, width = self.window
        tops, lefts = self.starts
        return [pixels[top : top + height, left : left + width] for top in tops for left in lefts]

    def join(self, scores: Sequence[np.ndarray], to: Size, *, mirrored: bool) -> View:
        """Joins the scores of an image's windows.

        Args:
          scores: [h, w, C] of each of `cut`.
          to: height and width of the annotation.
          mirrored: whether the image was; the result is put right again.
        """
        cells = np.stack(scores)
        cells = cells.reshape(len(self.starts[0]), -1, *cells.shape[1:])  # [r, c, h, w, C]
        rows, columns = (
            _placed(side, window, self.stride, number, pixels, turned)
            for side, window, number, pixels, turned in zip(
                self.size, self.window, cells.shape[2:4], to, (False, mirrored), strict=True
            )
        )
        cells = np.moveaxis(cells, 2, 1)
        return View(cells.reshape(rows.shape[1], columns.shape[1], -1), rows, columns)


def starts(side: int, window: int, stride: int) -> list[int]:
    """Returns where windows start along a side that is no shorter than a window."""
    number = -(-(side - window) // stride) + 1
    return [min(place * stride, side - window) for place in range(number)]


@functools.lru_cache(maxsize=64)
def _placed(side: int, window: int, stride: int, cells: int, to: int, mirrored: bool) -> np.ndarray:
    """Returns the shares [to, n cells] of the cells of n windows in the pixels of a side."""
    places = starts(side, window, stride)
    shares = np.zeros((side, len(places), cells))
    for number, start in enumerate(places):
        shares[start : start + window, number] = bilinear.weights(cells, window)
    shares = shares.reshape(side, -1)
    shares /= shares.sum(axis=1, keepdims=True)  # each window that covers a pixel gives 1
    return bilinear.weights(side, to) @ (shares[::-1] if mirrored else shares)


def pixel_scores(view: View) -> jax.Array:
    """Returns the scores of pixels, [H, W, C]."""
    shares = jnp.einsum("yh,hwc->ywc", view.rows, view.scores, precision="highest")
    return jnp.einsum("xw,ywc->yxc", view.columns, shares, precision="highest")


def decide(views: Sequence[View]) -> np.ndarray:
    """Returns the class of each pixel, [H, W] uint8: of several views by the sum of their softmax.

    Works on strips of rows: the scores of all pixels are never there at once.
    """
    height, width = len(views[0].rows), len(views[0].columns)
    padded = [
        View(
            np.asarray(view.scores, np.float32),
            *(np.float32(np.pad(x, ((0, -len(x) % _STRIP), (0, 0)))) for x in view[1:]),
        )
        for view in views
    ]
    return np.asarray(_decide(padded))[:height, :width]


def decide_cells(scores: jax.Array, size: Size) -> jax.Array:
    """Returns the classes of the pixels of windows, [B, *size] uint8, by scores [B, h, w, C]."""
    height, width = size
    rows, columns = (
        np.float32(bilinear.weights(cells, side))
        for cells, side in zip(scores.shape[1:3], size, strict=True)
    )
    rows = np.pad(rows, ((0, -height % _STRIP), (0, 0)))
    return jax.vmap(lambda one: _decide([View(one, rows, columns)]))(scores)[:, :height, :width]


@jax.jit
def _decide(views: list[View]) -> jax.Array:
    strips = [view.rows.reshape(-1, _STRIP, view.rows.shape[1]) for view in views]

    def one_strip(rows):
        scores = [
            pixel_scores(view._replace(rows=some)) for view, some in zip(views, rows, strict=True)
        ]
        if len(scores) > 1:
            scores = [sum(map(jax.nn.softmax, scores))]
        return jnp.argmax(scores[0], axis=-1).astype(jnp.uint8)

    found = jax.lax.map(one_strip, strips)
    return found.reshape(-1, found.shape[-1])
