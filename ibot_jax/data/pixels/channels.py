"""Pictures with as many channels as are wanted."""

import numpy as np
from PIL import Image

from ibot_jax.data.pixels.decoding import MODES, Decoding
from ibot_jax.data.pixels.unreadable import UnreadableImage


def to_channels(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Converts a picture of 8 bits to as many channels as are wanted.

    Alpha is dropped, not blended, where it is not wanted, and opaque where it is wanted but
    missing.

    Raises:
      UnreadableImage: where channels are bands, and it has others.
    """
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if decoding.apart:
        image = image if image.mode in MODES.values() else image.convert("RGB")
        check_channels(len(image.getbands()), decoding)
        return image
    mode = MODES[decoding.channels]
    return image if image.mode == mode else image.convert(mode)


def of_channels(pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Returns pixels [H, W, C] with the channels that are wanted, [H, W] of one; likewise."""
    found = pixels.shape[2]
    plain = pixels[..., 0] if found == 1 else pixels
    if found == decoding.channels:
        return plain
    if found not in MODES or decoding.apart:
        check_channels(found, decoding)
    return np.asarray(to_channels(Image.fromarray(plain), decoding))


def check_channels(found: int, decoding: Decoding) -> None:
    """Raises `UnreadableImage` where an image has another number of channels than is wanted."""
    if found != decoding.channels:
        raise UnreadableImage(
            f"it has {found} channels, and images here have data.channels={decoding.channels}"
        )
