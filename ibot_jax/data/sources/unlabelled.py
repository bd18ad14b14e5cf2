"""Images of a folder or any other source, as programs take them that need no labels."""

import os

from ibot_jax.data.sources.opening import KINDS, Source, open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError


def open_images(text: str, split: str, channels: int) -> Source:
    """Opens the images that --data and --split name.

    Args:
      text: a folder, or what `open_source` takes.
      split: of it; "" takes all of a folder, "train" of whatever else.
      channels: that images will have.

    Raises:
      UserError: if there are none, or they come in no order that is known beforehand.
    """
    spec = text if text.partition(":")[0] in KINDS else f"folder:{text}"
    split = split or ("" if spec.startswith("folder:") else "train")
    source = open_source(spec, split, channels=channels, labelled=False, key="--split")
    if isinstance(source, TfdsStream):
        raise UserError(
            f"--data={text} comes in an order that is not known beforehand; prepare it with "
            "--file_format=array_record"
        )
    return source


def name_in_text(source: Source, index: int) -> str:
    """Returns the name of an image below the folder or file of its source, which is always text."""
    return os.fsencode(source.relative_name(index)).decode("utf-8", "backslashreplace")
