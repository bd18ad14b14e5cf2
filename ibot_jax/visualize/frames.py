"""The frames of a video: read one by one, written as numbered files and an animation."""

import argparse
import io
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath
from PIL import Image, ImageSequence, UnidentifiedImageError

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import UnreadableImage, in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.errors import UserError
from ibot_jax.files.paths import require_writable
from ibot_jax.screen import canvas
from ibot_jax.visualize.pictures import Files, fit, open_images, read_pixels, readable
from ibot_jax.weights.model import Model

MAX_ANIMATED = 300  # frames of an animation, which lies in memory; longer videos are thinned


def read(args: argparse.Namespace, size: int, model: Model) -> Iterator[np.ndarray]:
    """Yields the frames that --data names in their order, [H, W, C] uint8; see `pictures.fit`.

    Raises:
      UserError: if there are none, or a file is no animation that Pillow can read.
    """
    source = open_images(args, model.config.data.channels)
    if isinstance(source, Files) and len(source) == 1:
        yield from _animation(source.describe(0), size, model)
    else:
        make = read_pixels(source, size, model)
        yield from (pixels for _, pixels in readable(source, range(len(source)), make))


def _animation(path: str, size: int, model: Model) -> Iterator[np.ndarray]:
    """Yields the frames of an animated file."""
    decoding = Decoding.of(model.config.data)
    try:
        with Image.open(io.BytesIO(read_file(path))) as video:
            for frame in ImageSequence.Iterator(video):
                pixels = EncodedImage(frame, decoding).decode()
                yield fit(pixels, size, model.geometry, model.view.interpolation, decoding.apart)
    except UnidentifiedImageError:
        raise UserError(
            f"--data={path} is no animation that Pillow reads (GIF, WebP, PNG); of another video "
            "extract the frames into a folder, for example by ffmpeg -i VIDEO FOLDER/%05d.png"
        ) from None
    except (OSError, UnreadableImage) as error:
        raise UserError(f"--data={path}: {in_words(error)}") from error


def check_folder(path: str) -> epath.Path:
    """Returns the folder that the frames go to.

    Raises:
      UserError: if it holds anything already, or cannot be made.
    """
    folder = canvas.local_path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={path} is to be a new or empty folder; choose another one")
    require_writable(folder, "--out")
    return folder


def write(drawn: Iterable[Image.Image], folder: epath.Path, format_: str, fps: int) -> str:
    """Writes frames as they come, 00000.png and on, and an animation of them at the end.

    Args:
      drawn: the frames; only one of them is kept in memory at a time.
      folder: for all of it.
      format_: of the animation, "webp" or "gif".
      fps: frames a second.

    Returns:
      What was written, in words.

    Raises:
      UserError: if the folder cannot be written.
    """
    number, size = 0, None
    for number, picture in enumerate(drawn, 1):
        size = size or picture.size  # an animation has one
        picture = picture if picture.size == size else picture.resize(size)
        canvas.save(picture, folder / f"{number - 1:05d}.png")
    stride = -(-number // MAX_ANIMATED)
    first, *others = (Image.open(folder / f"{i:05d}.png") for i in range(0, number, stride))
    animation = folder / f"attention.{format_}"
    with canvas.written(animation) as temporary:
        duration = round(1000 * stride / fps)
        first.save(temporary, save_all=True, append_images=others, duration=duration, loop=0)
    return f"{number} frames and {animation.name} written to {folder}"
