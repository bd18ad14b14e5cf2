"""Whether enough images of a source can be read, found out before anything slow begins."""

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError

MAX_TRIED = 1000  # beyond, the reading itself tells


def require_readable(
    source: Source | TfdsStream, decoding: Decoding, number: int = 1, purpose: str = "this"
) -> None:
    """Reads images until there are enough; of a sound source, that is the first few.

    Args:
      source: of the images; nothing is read of sequential TFDS data.
      decoding: how files become pixels.
      number: of images that are needed.
      purpose: what needs them, in words.

    Raises:
      UserError: if fewer can be read, with numbers and the first reason.
    """
    if isinstance(source, TfdsStream):
        return
    found, first = 0, ""
    for index in range(min(len(source), MAX_TRIED)):
        try:
            EncodedImage(source.fetch(source.locate(index)[0]), decoding).decode()
        except Exception as error:  # Pillow and file systems raise nearly every kind
            first = first or f"{source.describe(index)}: {in_words(error)}"
            continue
        found += 1
        if found >= number:
            return
    if len(source) <= MAX_TRIED or not found:
        tried = min(len(source), MAX_TRIED)
        among = f"the {tried:,}" if tried == len(source) else f"the first {tried:,}"
        raise UserError(
            f"{found} of {among} images of {source.name} can be read, and {purpose} needs "
            f"{number:,} or more" + (f"; the first that cannot: {first}" if first else "")
        )
