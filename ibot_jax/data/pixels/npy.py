"""NumPy's files: NPY, and NPZ with one array or one that is called image."""

from typing import BinaryIO

import numpy as np

from ibot_jax.data.pixels.raster import Raster, chosen_frame
from ibot_jax.data.pixels.unreadable import UnreadableImage

MAGIC = (b"\x93NUMPY", b"PK\x03\x04")


def open_npy(file: BinaryIO, channels: int, frame: int | None) -> Raster:
    """Opens an array.

    Args:
      file: of it.
      channels: that are wanted.
      frame: along the first axis, of arrays that have one too many; None without.

    Raises:
      UnreadableImage: if it is no image.
      Exception: NumPy's, if it is no array.
    """
    found = np.load(file, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        names = found.files
        name = "image" if "image" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise UnreadableImage(
                f"its arrays are {', '.join(names) or 'none'}; one is to be called image"
            )
        found = found[name]
    return Raster.of(_channels_last(found, channels, frame))


def _channels_last(values: np.ndarray, channels: int, frame: int | None) -> np.ndarray:
    """Returns an image [H, W, C] of an array whose channels come last or first."""
    shape = values.shape
    if values.ndim == 4 or (values.ndim == 3 and frame is not None):
        values = values[chosen_frame(frame, len(values))]
    if values.ndim == 3 and values.shape[2] != channels == values.shape[0]:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise UnreadableImage(f"an array of the shape {shape} is no image, [H, W] or [H, W, C]")
    return values
