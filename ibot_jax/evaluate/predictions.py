"""Writes what a model finds of the pixels of images: a file for each, and pictures for people.

    OUT/masks/NAME.png or OUT/depths/NAME.png
    OUT/pictures/NAME.png                         the image, and beside it what was found
    OUT/unfinished.json                           what they are of, until all are there

NAME is that of the image below its folder or file, without its ending. A file has its name only
when it is whole: what is there need not be found again.
"""

import collections
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.data.sources.listing import EXTENSIONS
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.unlabelled import name_in_text
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead, as_colors, write_png
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.files.atomic import write_json
from ibot_jax.files.json_files import as_json
from ibot_jax.files.paths import require_new, writing
from ibot_jax.screen.progress import progress

_UNFINISHED = "unfinished.json"


def require_new_or_unfinished(out: epath.Path, *, overwrite: bool) -> None:
    """Raises a UserError if a folder is there that no interrupted command has left.

    Args:
      out: the folder.
      overwrite: whether what is there may be replaced.
    """
    unfinished = (out / _UNFINISHED).exists()
    require_new(out, "--out", overwrite=overwrite or unfinished)


def write_predictions(
    pixels: PixelModel,
    source: Source,
    decoding: Decoding,
    out: epath.Path,
    pictures: int,
    about: Mapping[str, Any],
) -> int:
    """Writes what is found of all images that can be read, or of those that are left.

    Others are named and left out.

    Args:
      pixels: what finds it.
      source: the images.
      decoding: how they become pixels.
      out: the folder.
      pictures: of how many images there is one, the first.
      about: what determines what is found; JSON types only.

    Returns:
      How many images there are of which it is written.

    Raises:
      UserError: if two images would be written to one file, or one cannot be written, or the folder
        has what was found by other means.
    """
    names, shown = _targets(source), collections.deque()

    def files(index: int) -> list[epath.Path]:
        kinds = (pixels.finds, "pictures") if index < pictures else (pixels.finds,)
        return [out / kind / names[index] for kind in kinds]

    if not _goes_on(out, about):
        _begin(out, about, [file for index in range(len(source)) for file in files(index)])
    left = [i for i in range(len(source)) if not all(file.exists() for file in files(i))]

    def images() -> Iterator[np.ndarray]:
        for index, image in zip(left, ahead(_reader(source, decoding), left), strict=True):
            if image is not None:
                shown.append((index, as_colors(image) if index < pictures else None))
                yield image

    number = len(source) - len(left)
    for found in progress(pixels.find(images()), len(source), pixels.finds, start=number):
        index, image = shown.popleft()
        target, *sheets = files(index)
        write_png(pixels.as_image(found), target, "--out")
        for sheet in sheets:
            both = np.concatenate([image, pixels.as_colors(found)], axis=1)
            write_png(Image.fromarray(both), sheet, "--out")
        number += 1
    if number:
        (out / _UNFINISHED).unlink()
    return number


def _goes_on(out: epath.Path, about: Mapping[str, Any]) -> bool:
    """Returns whether an interrupted command has left something to go on from.

    Raises:
      UserError: if that is of something else.
    """
    file = out / _UNFINISHED
    if not file.exists():
        return False
    try:
        earlier = json.loads(file.read_text())
        changed = [k for k, v in json.loads(as_json(about)).items() if earlier.get(k) != v]
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}); remove {out}") from error
    if changed:
        raise UserError(
            f"--out={out} is of other {' and '.join(changed)}, and not finished; remove it, or "
            "choose another path"
        )
    return True


def _begin(out: epath.Path, about: Mapping[str, Any], files: list[epath.Path]) -> None:
    """Makes the folder, without what an earlier command has written there under these names."""
    with writing("--out", out):
        if out.exists():
            for file in files:
                file.unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / _UNFINISHED, about)


def _reader(source: Source, decoding: Decoding) -> Callable[[int], np.ndarray | None]:
    """Returns a function of an image's number: its pixels [H, W, C] uint8, None of a bad one."""
    bad = BadImages(len(source), max_share=1.0)

    def read(index: int) -> np.ndarray | None:
        try:
            image = EncodedImage(source.fetch(source.locate(index)[0]), decoding)
            pixels = image.decode()
        except Exception as error:  # Pillow's are of many kinds
            bad.note_bad(source.describe(index), in_words(error))
            return None
        if image.note:
            bad.note_odd(source.describe(index), image.note)
        return pixels.reshape(*pixels.shape[:2], decoding.channels)

    return read


def _targets(source: Source) -> list[str]:
    """Returns the file of each image, relative.

    Raises:
      UserError: if two have the same.
    """
    found: dict[str, int] = {}
    for index in range(len(source)):
        parts = name_in_text(source, index).split("/")
        name = "/".join(part for part in parts if part not in ("", ".", ".."))
        stem, _, ending = name.rpartition(".")
        target = f"{stem if ending.lower() in EXTENSIONS else name}.png"
        first = found.setdefault(target, index)
        if first != index:
            raise UserError(
                f"{source.describe(first)} and {source.describe(index)} would both be written to "
                f"{target}; give them different names"
            )
    return list(found)
