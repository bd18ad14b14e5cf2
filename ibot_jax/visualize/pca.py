"""The first three principal components of patch tokens, as red, green and blue.

One PCA over the patches of all images, so that equal colours mean equal things. What lies on the
border's side of the first component counts as background and is black; --threshold moves the
limit between the two from where it parts them best (Otsu's method).
"""

import argparse
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from ibot_jax.cli.flags import add_weights_options, share
from ibot_jax.models.parameters import Params
from ibot_jax.screen import canvas
from ibot_jax.visualize.options import add_image_options, add_output_options, open_model
from ibot_jax.visualize.pictures import read_pictures
from ibot_jax.weights.model import Model

_COLUMNS = 6
_BACKGROUND = (0, 0, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this figure."""
    add_weights_options(parser)
    add_image_options(parser, number=6)
    add_output_options(parser, cell=160)
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="T",
        help="between 0, where all is foreground, and 1, where nothing is, on the range of the "
        "first component (default: where it parts the two best)",
    )


def run(args: argparse.Namespace) -> None:
    """Draws the figure and writes it."""
    out = canvas.check_out(args.out)
    model, params = open_model(args)
    pictures = read_pictures(args, model)
    canvas.save(draw(model, params, pictures, args.threshold, args.cell), out)
    print(f"written to {out}")


def draw(
    model: Model, params: Params, pictures: list[np.ndarray], threshold: float | None, cell: int
) -> Image.Image:
    """Draws the figure: images, and below each its patches in colours.

    Args:
      model: whose tokens.
      params: the backbone's.
      pictures: what to show.
      threshold: of the foreground, see `split`.
      cell: longer side of a panel, pixels.
    """
    program = jax.jit(model.features)
    grids = [np.asarray(program(params, picture[None]).patches)[0] for picture in pictures]
    rows = []
    colored = color(grids, threshold)
    for start in range(0, len(pictures), _COLUMNS):
        shown = pictures[start : start + _COLUMNS]
        rows.append([canvas.photo(picture, cell) for picture in shown])
        rows.append(
            [
                canvas.panel(canvas.per_pixel(colors, picture.shape), cell)
                for picture, colors in zip(shown, colored[start:], strict=False)
            ]
        )
    return canvas.sheet(rows, cell=cell, groups=2)


class Components(NamedTuple):
    """A PCA.

    Attributes:
      mean: [D] float64.
      axes: [n, D] float64, orthonormal, by falling variance.
    """

    mean: np.ndarray
    axes: np.ndarray

    def project(self, tokens: np.ndarray) -> np.ndarray:
        """Maps tokens [..., D] to their components [..., n]."""
        return (tokens - self.mean) @ self.axes.T


def principal_components(tokens: np.ndarray, number: int) -> Components:
    """Returns the first principal components of tokens [T, D], by their covariance [D, D]."""
    tokens = tokens.astype(np.float64)
    mean = tokens.mean(axis=0)
    centered = tokens - mean
    _, vectors = np.linalg.eigh(centered.T @ centered)  # by rising variance
    return Components(mean, vectors.T[::-1][:number])


def color(grids: list[np.ndarray], threshold: float | None = None) -> list[np.ndarray]:
    """Colours patches by the first three components of all of them.

    Args:
      grids: tokens [h, w, D] of each image.
      threshold: see `split`.

    Returns:
      [h, w, 3] uint8 for each image; the background is black.
    """
    tokens = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
    components = principal_components(tokens, 3)
    projected = [components.project(grid) for grid in grids]
    border = np.concatenate([_border(grid.shape[:2]).ravel() for grid in grids])
    flat = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in projected])
    if np.median(flat[border, 0]) > np.median(flat[:, 0]):  # the sign of a component is arbitrary
        flat[:, 0] *= -1
    foreground = split(flat[:, 0], threshold)
    low, high = np.percentile(flat[foreground], [1, 99], axis=0) if foreground.any() else (0, 1)
    shares = np.clip((flat - low) / np.maximum(high - low, 1e-12), 0, 1)
    colors = np.where(foreground[:, None], 255 * shares, _BACKGROUND).round().astype(np.uint8)
    ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])
    return [
        part.reshape(*grid.shape[:2], -1)
        for part, grid in zip(np.split(colors, ends[:-1]), grids, strict=True)
    ]


def split(values: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Returns which values [T] lie above a threshold, [T] bool.

    Args:
      values: any.
      threshold: as a share of the range from the smallest, 0, to the largest value, 1; None for
        the one that parts the values into two groups of the least variance within them (Otsu).
    """
    if threshold is not None:
        low, high = values.min(), values.max()
        return values >= low + threshold * (high - low) if threshold else np.full(len(values), True)
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    mean_below = below / count
    mean_above = (ordered.sum() - below) / (len(ordered) - count)
    between = count * (len(ordered) - count) * (mean_above - mean_below) ** 2
    return values > ordered[between.argmax()]


def _border(shape: tuple[int, int]) -> np.ndarray:
    """Returns which patches [h, w] lie on the border."""
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    return border
