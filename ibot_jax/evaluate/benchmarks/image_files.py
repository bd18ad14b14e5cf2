"""Images of evaluations that need each one: decoded ahead of use, and named where one is wrong."""

import collections
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.pictures import on_picture
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.listing import EXTENSIONS
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed
from ibot_jax.files.paths import writing
from ibot_jax.parallel.shares import Rows

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 8  # decoders release the interpreter's lock
_AHEAD = 16

_log = logging.getLogger(__name__)


def read_image(path: epath.Path, decoding: Decoding) -> np.ndarray:
    """Returns the pixels of an image, [H, W, C] uint8.

    Raises:
      UserError: if it is absent or no image.
    """
    try:
        image = EncodedImage(read_file(os.fspath(path)), decoding)
        pixels = image.decode()
    except FileNotFoundError:
        raise UserError(f"{path} is absent") from None
    except Exception as error:  # Pillow's are of many kinds
        raise UserError(f"{path} cannot be read ({in_words(error)})") from error
    if image.note:
        _log.warning("%s: %s", path, image.note)
    return pixels.reshape(*pixels.shape[:2], decoding.channels)


def changed(
    pixels: np.ndarray, change: Callable[[Image.Image], Image.Image], decoding: Decoding
) -> np.ndarray:
    """Returns pixels [H, W, C] uint8 as a function of Pillow's images changes them, [H', W', C]."""
    plain = pixels if pixels.shape[2] > 1 else pixels[..., 0]
    found = on_picture(plain, change, decoding.apart)
    return found.reshape(*found.shape[:2], pixels.shape[2])


def read_labels(path: epath.Path) -> np.ndarray:
    """Returns the labels that a grey or palette image holds, [H, W] uint8.

    Raises:
      UserError: if it is absent or no such image.
    """
    return np.asarray(open_labels(path))


def open_labels(path: epath.Path) -> Image.Image:
    """Returns an image of labels with its palette; otherwise as `read_labels`."""
    image = open_unchanged(path)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} holds colours ({image.mode}), not labels (grey or a palette)")
    return image


def open_unchanged(path: epath.Path) -> Image.Image:
    """Returns an image as its file has it: one of numbers is not to be converted.

    Raises:
      UserError: if it is absent or no image.
    """
    try:
        image = Image.open(io.BytesIO(read_file(os.fspath(path))))
        image.load()
    except FileNotFoundError:
        raise UserError(f"{path} is absent") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} cannot be read (no image, or of an unknown format)") from None
    except Exception as error:  # Pillow's are of many kinds
        raise UserError(f"{path} cannot be read ({in_words(error)})") from error
    return image


def list_images(folder: epath.Path) -> list[epath.Path]:
    """Returns the images right in a folder, by name.

    Raises:
      UserError: if it is absent or holds none.
    """
    require_folder(folder)
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = [path for path in visible if path.suffix[1:].lower() in EXTENSIONS]
    if not images:
        raise UserError(f"{folder} holds no images; they end in {', '.join(EXTENSIONS)}")
    return sorted(images)


def spread(items: Sequence[T], most: int) -> list[T]:
    """Returns no more than so many items, evenly spaced from the first to the last; 0 keeps all."""
    if not most or most >= len(items):
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, most).round().astype(int)]


def require_folder(folder: epath.Path) -> epath.Path:
    """Returns the folder; raises a UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; see --help for what the data look like")
    return folder


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields function(item) for each item, in order, computed in threads up to 16 items ahead.

    Raises what the function raises, where its result would have been.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        pending = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def orders(images: int, batch_size: int, seed: int, done: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields epoch after epoch, without end, its number and the images of its whole batches.

    Args:
      images: how many there are, at least a batch.
      batch_size: images in a batch.
      seed: of the orders.
      done: batches that are passed over.
    """
    per_epoch = images // batch_size
    epoch, skipped = divmod(done, per_epoch)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(images)
        yield epoch, order[: per_epoch * batch_size][skipped * batch_size :]
        epoch, skipped = epoch + 1, 0


def share_batches(
    read: Callable[[T], Sequence[np.ndarray]],
    items: Sequence[T],
    blank: Sequence[np.ndarray],
    rows: Rows,
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yields this process's share of batches, read ahead in threads.

    Args:
      read: makes the arrays of an item.
      items: the same on all processes, see `same_images.require_same_files`.
      blank: arrays like those of an item, which fill up the last batch.
      rows: of a batch of B that this process makes, b of them.

    Yields:
      The arrays of each batch, [b, ...], and which rows are not blank, [b] bool.
    """
    batches = [start + rows.numbers for start in range(0, len(items), rows.batch_size)]
    results = ahead(read, (items[i] for batch in batches for i in batch if i < len(items)))
    for batch in batches:
        arrays = [np.repeat(array[None], len(rows), axis=0) for array in blank]
        valid = batch < len(items)
        for row in np.flatnonzero(valid):
            for target, array in zip(arrays, next(results), strict=True):
                target[row] = array
        yield arrays, valid


def as_colors(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels [H, W, C] uint8 as [H, W, 3]: the first three channels, or the first."""
    return pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)


def write_png(image: Image.Image, target: epath.Path, named: str) -> None:
    """Writes an image, and the folders above it.

    Args:
      image: the image.
      target: the file.
      named: the flag that names its folder, for the message.

    Raises:
      UserError: if it cannot be written.
    """
    with writing(named, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with renamed(target) as temporary, temporary.open("wb") as file:
            image.save(file, format="PNG")


def to_square(pixels: np.ndarray, size: int, decoding: Decoding) -> np.ndarray:
    """Stretches pixels [H, W, C] uint8 to [size, size, C]: bicubic, antialiased."""

    def stretch(image: Image.Image) -> Image.Image:
        return image.resize((size, size), Image.Resampling.BICUBIC)

    return changed(pixels, stretch, decoding)
