"""Views as they are drawn for training: masked patches dark, colours as they come."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ibot_jax.screen import canvas

_DARK = 0.3  # of what is masked
_ROWS = 6  # images of a sheet


def row(views: Mapping[str, np.ndarray], cell: int) -> list[Image.Image]:
    """Returns panels of an image's views: each global one with its mask, and four local ones.

    Args:
      views: `global_views` [G, H, W, C] and `local_views` [L, H', W', C], uint8; `masks` [G, h, w].
      cell: side of a panel in pixels.
    """
    panels = []
    for view, mask in zip(views["global_views"], views["masks"], strict=True):
        light = np.where(mask, _DARK, 1.0)[..., None]
        shown = canvas.to_rgb(view) * canvas.per_pixel(light, view.shape)
        panels.append(canvas.panel(shown.astype(np.uint8), cell))
    if len(views["local_views"]):
        panels.append(_quarters([canvas.to_rgb(view) for view in views["local_views"]], cell))
    return panels


def labels(views: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the panels of `row`."""
    return ["global view"] * len(views["global_views"]) + ["local views"] * (
        len(views["local_views"]) > 0
    )


def views_of_batch(batch: Mapping[str, np.ndarray]) -> Image.Image:
    """Returns the views of a batch's first images, a row an image.

    Args:
      batch: arrays as of `row`, each with a leading axis of images.
    """
    names = "global_views", "local_views", "masks"
    shown = range(min(_ROWS, len(batch["masks"])))
    images = [{name: np.asarray(batch[name][number]) for name in names} for number in shown]
    cell = max(*batch["global_views"].shape[2:4], 96)
    return canvas.sheet([row(views, cell) for views in images], labels(images[0]), cell=cell)


def _quarters(views: Sequence[np.ndarray], cell: int) -> Image.Image:
    """Returns the first four views as one picture."""
    half = (cell - 4) // 2
    picture = Image.new("RGB", (cell, cell), canvas.PAPER)
    for number, view in enumerate(views[:4]):
        place, column = divmod(number, 2)
        picture.paste(canvas.panel(view, half), (column * (half + 4), place * (half + 4)))
    return picture
