"""ObjectNet (Barbu et al., NeurIPS 2019): its images without their border, and ImageNet's classes.

DIR/images/FOLDER/*.png      313 objects, of which 113 are classes of ImageNet
DIR/mappings/*               folder_to_objectnet_label.json, objectnet_to_imagenet_1k.json,
                             pytorch_to_imagenet_2012_id.json, imagenet_to_label_2012_v2
"""

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.sources.folders import FolderSource, read_file
from ibot_jax.data.sources.opening import Subset
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import require_folder
from ibot_jax.evaluate.benchmarks.imagenet_variants import Variant
from ibot_jax.files.paths import absolute_path

BORDER = 2  # pixels, red, on each side; to be cut off, as the benchmark's own loader does
PAGE = "objectnet.dev"


def open_objectnet(folder: str, num_classes: int, most: int = 0) -> Variant:
    """Opens the images of the objects that are classes of ImageNet.

    Args:
      folder: with images/ and mappings/, as its archive has it.
      num_classes: of the training split, ImageNet's in alphabetic order of their WNIDs.
      most: images of each object, by name; 0 for all.

    Raises:
      UserError: if something is absent, or other classes are meant.
    """
    root = require_folder(absolute_path(folder))
    flag = f"--objectnet={folder}"
    try:
        mappings = root / "mappings"
        label_of = json.loads((mappings / "folder_to_objectnet_label.json").read_text())
        names_of = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text())
        lines = json.loads((mappings / "pytorch_to_imagenet_2012_id.json").read_text())
        named = (mappings / "imagenet_to_label_2012_v2").read_text().splitlines()
        source = FolderSource(str(root / "images"), "", max_per_class=most)
        translation, counted = _translate(source, label_of, names_of, lines, named, num_classes)
    except FileNotFoundError as error:
        raise UserError(
            f"{flag} lacks {error.filename}; it needs images/ and mappings/, as its archive has "
            f"them: {PAGE}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{flag}: its mappings are not those of {num_classes} classes of the training split "
            f"({type(error).__name__}: {error}); ObjectNet needs ImageNet's 1,000: {PAGE}"
        ) from error
    if not len(counted):
        raise UserError(f"{flag} has no images of ImageNet's classes; it is to be had at {PAGE}")
    inner = Subset(source, counted)
    inner.fetch = read_inner
    return Variant(inner, translation)


def read_inner(path: str) -> Excerpt:
    """Reads an image, of which all but the border counts."""
    content = read_file(path)
    width, height = Image.open(io.BytesIO(content)).size
    return Excerpt(content, box=Box(BORDER, BORDER, height - 2 * BORDER, width - 2 * BORDER))


def _translate(
    source: FolderSource,
    label_of: dict[str, str],
    names_of: dict[str, str],
    lines: dict[str, Any],
    named: list[str],
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the folder of each class, [C], -1 for none, and which images count."""
    if len(lines) != num_classes:
        raise ValueError(f"{len(lines)} classes")
    class_of = {named[int(line)].strip(): int(number) for number, line in lines.items()}
    translation = np.full(num_classes, -1)
    for place, folder in enumerate(source.class_names or ()):
        names = names_of.get(label_of[folder], "")
        for name in names.split("; ") if names else ():
            translation[class_of[name]] = place
    counted = np.flatnonzero(np.isin(source.labels, translation[translation >= 0]))
    return translation, counted
