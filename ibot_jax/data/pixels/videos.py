"""Frames of videos by their number, by PyAV (FFmpeg)."""

import bisect
import functools
from typing import TYPE_CHECKING

import numpy as np

from ibot_jax.data.pixels.unreadable import UnreadableImage, missing

if TYPE_CHECKING:
    import av

_KEPT = 8  # open videos, of each process
_KEYS_TRIED = 2
_INDEXED = ("mov,mp4", "matroska")  # others are read from the beginning: they seek by guessing


def read_frame(path: str, number: int) -> np.ndarray:
    """Returns a frame of a video's first stream of pictures, [H, W, 3] uint8.

    Args:
      path: of a local file.
      number: of the frame in the order in which frames are shown, from 0 on.

    Raises:
      UnreadableImage: if PyAV is missing, or there is no such frame.
      Exception: PyAV's, if it is no video.
    """
    try:
        import av
    except ImportError as error:
        raise missing(error, "a video", "video") from error
    container, times, keys = _opened(path)
    if number >= len(times):
        raise UnreadableImage(f"it has {len(times)} frames, and frame {number} (from 0 on) is none")
    stream, time = container.streams.video[0], times[number]
    # Frames that are shown before a key frame may lie behind it, and need the one before, too.
    exact = container.format.name.startswith(_INDEXED)
    before = keys[: bisect.bisect_right(keys, time)] if exact else []
    for key in before[: -1 - _KEYS_TRIED : -1]:
        container.seek(key, stream=stream)
        if (found := _decoded(container, time)) is not None:
            return found
    with av.open(path) as container:
        found = _decoded(container, time)
    if found is None:
        raise UnreadableImage(f"frame {number} cannot be decoded")
    return found


def _decoded(container: "av.container.InputContainer", time: int) -> np.ndarray | None:
    """Returns the frame that is shown at a time, None if the next ones are shown after it."""
    for frame in container.decode(video=0):
        if frame.pts == time:
            return frame.to_ndarray(format="rgb24")
        if frame.pts is not None and frame.pts > time:
            break
    return None


@functools.lru_cache(_KEPT)
def _opened(path: str) -> "tuple[av.container.InputContainer, list[int], list[int]]":
    """Returns a video, and when its frames and its key frames are shown; none is decoded."""
    import av

    container = av.open(path)
    if not container.streams.video:
        raise UnreadableImage("it has no pictures")
    packets = container.demux(container.streams.video[0])
    shown = sorted((p.pts, p.is_keyframe) for p in packets if p.pts is not None)
    return container, [time for time, _ in shown], [time for time, is_key in shown if is_key]
