"""Images as files of numbers hold them: of any type, with any number of channels."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage


@dataclasses.dataclass(frozen=True)
class Raster:
    """An image of numbers, of which no more than the header need have been read.

    Attributes:
      height: pixels.
      width: pixels.
      channels: of the numbers that `read` returns.
      kind: of numbers, NumPy's name.
      read: returns [H, W, C]; what lies outside of the boxes that it is given, if it is given any,
        may be 0.
      limits: the numbers that are black and white, where the file tells; None where it does not.
      orientation: EXIF's number.
    """

    height: int
    width: int
    channels: int
    kind: str
    read: Callable[[Sequence[Box]], np.ndarray]
    limits: tuple[float, float] | None = None
    orientation: int = 1

    @classmethod
    def of(cls, values: np.ndarray) -> "Raster":
        """Returns an image whose numbers, [H, W, C], are there."""
        return cls(*values.shape, values.dtype.name, lambda boxes: values)


def chosen_frame(frame: int | None, number: int) -> int:
    """Returns which frame of a file an image is, the first where none is asked for.

    Raises:
      UnreadableImage: if there is no such frame.
    """
    if frame is not None and frame >= number:
        raise UnreadableImage(f"it has {number} frames, and frame {frame} (from 0 on) is none")
    return frame or 0


def are_channels(frames: int, channels_of_frame: int, frame: int | None, channels: int) -> bool:
    """Returns whether the frames of a file together have the channels of an image.

    Args:
      frames: of the file.
      channels_of_frame: of each.
      frame: the one that is asked for; None if none is.
      channels: that are wanted, 0 if frames are never channels.
    """
    return frame is None and frames > 1 and frames * channels_of_frame == channels
