"""What no model has or takes: weights that are not finite, means of no pixels, other arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.ranges import Between, entries
from ibot_jax.errors import UserError
from ibot_jax.models.geometry import Geometry

# By how much pixels may leave 0..1, as those do that were resized with bicubic weights.
_OVERSHOOT = 0.5


def check_finite(params: Any, path: str) -> None:
    """Makes sure that weights are finite floating-point numbers.

    Args:
      params: a tree of arrays, NumPy's or JAX's; of arrays over several processes each calls it.
      path: where they are from, for the message.

    Raises:
      UserError: with the name of the first tensor that holds NaN, an infinity or no floating-point
        numbers.
    """
    for key, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(key, simple=True, separator=".")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UserError(
                f"{path} holds {name} as {leaf.dtype}; weights are floating-point numbers"
            )
        if not (_on_devices(leaf) if isinstance(leaf, jax.Array) else _is_finite(leaf, np)):
            raise UserError(
                f"{path} holds NaN or infinities in {name}; weights are finite: take an earlier "
                "checkpoint, or make the file anew"
            )


def _is_finite(array: Any, numpy: Any) -> Any:
    if array.dtype == np.float64:
        return (abs(array) <= np.finfo(np.float32).max).all()  # what it becomes for a model
    return numpy.isfinite(array).all()


@jax.jit
def _on_devices(array: jax.Array) -> jax.Array:
    return _is_finite(array, jnp)


def check_normalization(values: Mapping[str, Any], where: str) -> None:
    """Makes sure that means and deviations are those of pixels in [0, 1].

    Args:
      values: "mean" and "std", or one of them: tuples of a number for each channel.
      where: what says so, for the message; names are put behind it.

    Raises:
      UserError: if they are not, those of pixels from 0 to 255 included.
    """
    for name, of_channels in values.items():
        key = KEYS[f"data.{name}"]
        assert isinstance(key.takes, Between)
        if key.problem(of_channels):
            numbers = [x for x in entries(of_channels) if isinstance(x, int | float)]
            raise UserError(
                f"{where}{name}={','.join(map(str, entries(of_channels)))} is not of pixels in "
                f"[0, 1]: each channel's is {key.takes}"
                + ("; divide it by 255" if max(numbers, default=0) > key.takes.high else "")
            )


def check_images(
    images: np.ndarray | jax.Array, floats: str | None, channels: int, geometry: Geometry
) -> None:
    """Makes sure that images are what a model takes, and say what they are.

    Args:
      images: [B, H, W, C], traced or not.
      floats: "unit" or "normalized", what floating ones are; None if nothing is said.
      channels: C of the model.
      geometry: of its backbone.

    Raises:
      UserError: if they are anything else.
    """
    shape, dtype = images.shape, images.dtype
    if floats not in (None, "unit", "normalized"):
        raise UserError(f"floats={floats!r} is unknown; images are 'unit' or 'normalized'")
    if len(shape) != 4:
        one = "; of one image give images[None]" if len(shape) == 3 else ""
        raise UserError(f"images have the shape {shape}, not [B, H, W, {channels}]{one}")
    if shape[3] != channels:
        last = "; images.transpose(0, 2, 3, 1) puts them last" if shape[1] == channels else ""
        raise UserError(
            f"images have the shape {shape}, not [B, H, W, {channels}], of the model's {channels} "
            f"channels{last}"
        )
    height, width = shape[1:3]
    if geometry.whole((height, width)) != (height, width) or not height * width:
        side = geometry.stride
        low, high = geometry.whole((max(height, side), max(width, side)))
        raise UserError(
            f"images have {height}x{width} pixels, which are no whole patches of {side}x{side}; "
            f"resize or cut them, to {low}x{high} for example"
        )
    if dtype == jnp.uint8:
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"images are {dtype}; give uint8, pixels from 0 to 255, or floating ones and what they "
            "are: floats='unit', pixels from 0 to 1, or floats='normalized'"
        )
    if floats is None:
        raise UserError(
            f"images are {dtype}, which may be pixels or normalised; say which: floats='unit', "
            "from 0 to 1, or floats='normalized', with the model's mean and std; or give uint8"
        )
    if floats == "unit" and not isinstance(images, jax.core.Tracer):
        lowest, highest = float(jnp.min(images)), float(jnp.max(images))
        if not (lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT):
            raise UserError(
                f"images are from {lowest:g} to {highest:g}, and floats='unit' are from 0 to 1; "
                "divide pixels by 255, or say floats='normalized'"
            )
