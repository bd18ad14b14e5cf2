"""Frames of videos by their number, by PyAV (FFmpeg)."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from ibot_jax.data.pixels.unreadable import UnreadableImage, missing

if TYPE_CHECKING:
    import av

_KEPT = 8  # open videos, of each process


def read_frame(path: str, number: int) -> np.ndarray:
    """Returns a frame of a video's first stream of pictures, [H, W, 3] uint8.

    Args:
      path: of a file, or URL that FFmpeg reads.
      number: of the frame in the order in which frames are shown, from 0 on.

    Raises:
      UnreadableImage: if PyAV is missing, or there is no such frame.
      Exception: PyAV's, if it is no video.
    """
    container, times = _opened(path)
    if number >= len(times):
        raise UnreadableImage(f"it has {len(times)} frames, and frame {number} (from 0 on) is none")
    stream = container.streams.video[0]
    container.seek(times[number], stream=stream, backward=True)  # to the key frame before
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= times[number]:
            return frame.to_ndarray(format="rgb24")
    raise UnreadableImage(f"frame {number} cannot be decoded")


@functools.lru_cache(_KEPT)
def _opened(path: str) -> "tuple[av.container.InputContainer, list[int]]":
    """Returns a video, and when its frames are shown, found without decoding them."""
    try:
        import av
    except ImportError as error:
        raise missing(error, "a video", "video") from error
    container = av.open(path)
    if not container.streams.video:
        raise UnreadableImage("it has no pictures")
    packets = container.demux(container.streams.video[0])
    return container, sorted(packet.pts for packet in packets if packet.pts is not None)
