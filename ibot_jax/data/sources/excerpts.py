"""Images that are parts of files: a page or a frame, a window, a region of a slide.

A list names them by its columns `frame`, and `x`, `y`, `w`, `h` and `level`.
"""

from typing import NamedTuple

import numpy as np

from ibot_jax.data.pixels import slides, videos
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage
from ibot_jax.data.sources.folders import open_regular
from ibot_jax.errors import UserError
from ibot_jax.files import remote

COLUMNS = ("frame", "x", "y", "w", "h", "level")
WINDOW = COLUMNS[1:5]
NONE = -1  # of a column
_SLIDES = ("svs", "ndpi", "mrxs", "scn", "vms", "vmu", "bif", "svslide")
_VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "wmv", "ogv", "ts")


class Place(NamedTuple):
    """Where an image lies in a file; `NONE` is what a list does not say.

    Attributes:
      path: of the file, or its URL.
      frame: page, frame, or place along the first axis.
      x: pixels from the left; of a slide, of level 0.
      y: pixels from the top, likewise.
      w: width in pixels.
      h: height in pixels.
      level: of a slide.
    """

    path: str
    frame: int
    x: int
    y: int
    w: int
    h: int
    level: int

    def __str__(self) -> str:
        told = zip(COLUMNS, self[1:], strict=True)
        said = [f"{name}={number}" for name, number in told if number != NONE]
        return f"{self.path} {' '.join(said)}".rstrip()


def numbers_of(cells: list[str], file: str, path: str) -> tuple[int, ...]:
    """Returns the numbers of `COLUMNS` as a list writes them.

    Raises:
      UserError: if one is none, or a window lacks a side.
    """
    try:
        numbers = tuple(int(cell) if cell else NONE for cell in cells)
        if min(numbers) < NONE or any(cell and int(cell) < 0 for cell in cells):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{file}: {', '.join(COLUMNS)} of {path} are {', '.join(map(repr, cells))}; "
            "write whole numbers from 0 on, or nothing"
        ) from None
    window = numbers[1:5]
    if (NONE in window and set(window) != {NONE}) or 0 in window[2:]:
        raise UserError(
            f"{file}: the window of {path} is {', '.join(map(repr, cells[1:5]))}; write "
            f"{', '.join(WINDOW)}, all of them, the last two above 0"
        )
    return numbers


def read_excerpt(place: Place) -> Excerpt | np.ndarray:
    """Returns an image that is a part of a file, opened or, of slides and videos, decoded.

    Raises:
      Exception: of any kind where it is gone, or none.
    """
    path, frame, x, y, w, h, level = place
    box = None if x == NONE else Box(y, x, h, w)
    ending = path.rpartition(".")[2].lower()
    is_slide, is_video = ending in _SLIDES or level != NONE, ending in _VIDEOS
    if is_slide or is_video:
        path = path.removeprefix("file://")
        if remote.is_remote(path):
            raise UnreadableImage("slides and videos are read from disks alone; copy it to one")
    if is_slide:
        if box is None:
            raise UnreadableImage("of a slide a list names windows, in columns x, y, w and h")
        return slides.read_region(path, box, max(level, 0))
    if is_video:
        if frame == NONE:
            raise UnreadableImage("of a video a list names frames, in a column frame")
        pixels = videos.read_frame(path, frame)
        return pixels if box is None else Excerpt(pixels, box=box)
    return Excerpt(open_regular(path), None if frame == NONE else frame, box)
