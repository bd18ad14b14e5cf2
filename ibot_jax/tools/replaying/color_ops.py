"""What Pillow and torchvision make of one image: colours, flips, blurs and crops, in bytes.

A file holds `image` [H, W, 3] uint8 and, by OPERATION or OPERATION/VALUE, what came out:
`brightness`, `contrast`, `saturation` and `hue` by factor, `blur` by radius, `solarize/128`,
`grayscale`, `hflip`, and `resized_crop/TOP,LEFT,HEIGHT,WIDTH,SIZE`.
"""

import numpy as np
from PIL import Image

from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.data.pixels.resize import Box, crop_and_resize
from ibot_jax.kernels.color_table import Color
from ibot_jax.tools.replaying.recording import Deviation, Deviations, Kind, Recording, difference

TOLERANCE = 0.0  # bytes


def takes(recording: Recording) -> bool:
    """Returns whether a recording is of operations on an image."""
    return "image" in recording and "hflip" in recording


def replay(recording: Recording) -> Deviations:
    """Does every operation again.

    Raises:
      UserError: for an operation that is not there.
    """
    image = Image.fromarray(recording["image"])
    for name in sorted(recording.names - {"image", "config"}):
        found = np.asarray(_operate(recording, image, name))
        yield Deviation(name, difference(found, recording[name]), TOLERANCE)


KIND = Kind("operations of Pillow and torchvision on an image", takes, replay)


def _operate(recording: Recording, image: Image.Image, name: str) -> Image.Image | np.ndarray:
    operation, _, value = name.partition("/")
    try:
        if operation == "resized_crop":
            top, left, height, width, size = map(int, value.split(","))
            box = Box(top, left, height, width)
            return crop_and_resize(np.asarray(image), box, (size, size), "pillow")
        changes = {"flip": False, "jitter": (), "gray": False, "blur_radius": 0.0}
        changes["solarize"] = name == "solarize/128"
        if operation in ("brightness", "contrast", "saturation", "hue"):
            changes["jitter"] = ((operation, float(value)),)
        elif operation == "blur":
            changes["blur_radius"] = float(value)
        elif operation in ("hflip", "grayscale"):
            changes["flip" if operation == "hflip" else "gray"] = True
        elif not changes["solarize"]:
            raise ValueError(name)
    except ValueError:
        raise recording.problem(f"{name} is no operation on an image here") from None
    return apply_color(image, Color(**changes))
