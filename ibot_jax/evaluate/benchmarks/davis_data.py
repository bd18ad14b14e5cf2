"""The files of DAVIS-2017, and predictions in its format.

DATA/ImageSets/2017/val.txt              names of videos, one a line
DATA/JPEGImages/480p/VIDEO/00000.jpg     frames
DATA/Annotations/480p/VIDEO/00000.png    what they show: 0 background, 1, 2, ... objects
"""

import dataclasses

import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import (
    list_images,
    open_labels,
    read_labels,
    require_folder,
    write_png,
)

_VOID = 255  # not annotated; DAVIS's evaluation takes it as background


@dataclasses.dataclass(frozen=True)
class Video:
    """A video.

    Attributes:
      name: of its folders.
      frames: files, in order.
      annotations: the file of each frame.
    """

    name: str
    frames: list[epath.Path]
    annotations: list[epath.Path]


def find_videos(data: epath.Path, split: str) -> list[Video]:
    """Finds the videos of a split with all their files.

    Raises:
      UserError: if something is absent.
    """
    listing = require_folder(data) / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.exists():
        raise UserError(f"{listing} is absent: the names of the videos")
    names = listing.read_text().split()
    if not names:
        raise UserError(f"{listing} names no video")
    return [_find_video(data, name) for name in names]


def read_objects(path: epath.Path) -> np.ndarray:
    """Returns an annotation [H, W] uint8, 0 where there is no object.

    Raises:
      UserError: if it cannot be read.
    """
    labels = read_labels(path)
    return np.where(labels == _VOID, 0, labels)


def write_prediction(folder: epath.Path, video: Video, number: int, labels: np.ndarray) -> None:
    """Writes labels [H, W] uint8 of frame `number` with the annotations' palette.

    Raises:
      UserError: if it cannot be written.
    """
    palette = open_labels(video.annotations[0]).getpalette() or []
    image = Image.fromarray(labels)
    image.putpalette(palette + [0] * (768 - len(palette)))
    write_png(image, folder / video.name / video.annotations[number].name, "--predictions")


def _find_video(data: epath.Path, name: str) -> Video:
    frames = list_images(data / "JPEGImages" / "480p" / name)
    folder = require_folder(data / "Annotations" / "480p" / name)
    there = {path.name for path in folder.iterdir()}
    annotations = [folder / f"{frame.stem}.png" for frame in frames]
    absent = [path for path in annotations if path.name not in there]
    if absent:
        raise UserError(
            f"{absent[0]} is absent, one of {len(absent)} annotations that {name} lacks; only a "
            "split with all of them can be measured (val, train)"
        )
    if len(frames) < 3:
        raise UserError(
            f"{frames[0].parent} holds {len(frames)} frames; first and last are not measured, so "
            "it takes 3"
        )
    return Video(name, frames, annotations)
