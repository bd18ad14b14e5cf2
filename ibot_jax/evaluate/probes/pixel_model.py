"""A model with a head that was trained for pixels: what it finds of images, and how that is shown.

Tasks open theirs again after the training, for programs that predict and convert.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class PixelModel:
    """What a task has trained, ready to be used.

    Attributes:
      finds: "masks" or "depths".
      values: what the pixels of a written image say, in words.
      find: images [H, W, C] uint8 of any sizes -> [H, W] of each, in their order.
      as_image: what is found of an image -> the image that is written.
      as_colors: likewise -> colours for people, [H, W, 3] uint8.
      program: images [B, *size, C] uint8 -> what is found of them, by name; pure.
      size: height and width of the images of `program`.
      takes: what these images are, in words.
      gives: what `program` returns, in words.
    """

    finds: str
    values: str
    find: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    as_image: Callable[[np.ndarray], Image.Image]
    as_colors: Callable[[np.ndarray], np.ndarray]
    program: Callable[[jax.Array], dict[str, jax.Array]]
    size: tuple[int, int]
    takes: str
    gives: str
