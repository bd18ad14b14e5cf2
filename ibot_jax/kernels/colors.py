"""The colours of a batch of views, changed on the accelerator as Pillow changes them on the host.

One program serves all views: every view goes through every operation, and what was drawn for it
selects the results. Between operations pixels are whole levels, uint8, as in Pillow.

Repetitions are loops of the program, not of Python: unrolled, the compiler would fuse across
operations and compute the earlier ones anew for each use by the later ones, many times over.
"""

import functools
import math

import jax
import jax.numpy as jnp

from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.color_operations import (
    blend,
    blend_factor,
    blur_reach,
    box_weights,
    gray,
    rounded_mean,
    shift_hue,
)
from ibot_jax.kernels.color_table import COLUMNS, JITTER, SOLARIZE_THRESHOLD
from ibot_jax.kernels.specs import ColorsSpec
from ibot_jax.kernels.tpu import colors as tpu_colors

Array = jax.Array


def apply_colors(
    views: Array,
    colors: Array,
    max_blur_radius: float,
    kernels: Kernels = XLA,
    bands: bool = False,
) -> Array:
    """Flips, jitters, greys, blurs and solarises views, each as its own row of numbers says.

    Equal to the byte with torchvision on Pillow images, but for about one in a million pixels of
    a blurred view, which are a level off. Where division does not round as IEEE 754 says, pixels
    whose hue lies at a step, of 256 in the colour wheel, may fall to the step before.

    Args:
      views: [..., H, W, C] uint8; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), or any
        number of bands. Alpha is flipped, and otherwise kept; grey has neither saturation nor hue.
      colors: [..., 12] float32, the columns of `color_table.COLUMNS`.
      max_blur_radius: no standard deviation in `colors` is larger, pixels; sets how many
        neighbours the blur reads.
      kernels: that may compute it.
      bands: whether each channel is changed as a grey view of its own.

    Returns:
      [..., H, W, C] uint8.
    """
    if bands:
        grays = jnp.moveaxis(views, -1, -3)[..., None]
        rows = jnp.repeat(colors[..., None, :], views.shape[-1], axis=-2)
        changed = apply_colors(grays, rows, max_blur_radius, kernels)
        return jnp.moveaxis(changed[..., 0], -3, -1)
    spec = ColorsSpec(math.prod(views.shape[:-3]), *views.shape[-3:], max_blur_radius)
    implementation = kernels.first(spec, tpu_colors)
    if implementation is not None:
        return implementation.apply_colors(views, colors, spec, kernels.device)
    one_view = functools.partial(_apply_color, reach=blur_reach(max_blur_radius))
    return jnp.vectorize(one_view, signature="(h,w,c),(n)->(h,w,c)")(views, colors)


def _apply_color(view: Array, color: Array, reach: int) -> Array:
    """Changes one view, [H, W, C], by one row, [12]."""
    drawn = dict(zip(COLUMNS, color, strict=True))
    view = jnp.where(drawn["flip"] > 0, view[:, ::-1], view)
    bands = 1 if view.shape[-1] < 3 else 3
    # Planes, since rows of pixels fill vector registers and triples of colours do not.
    planes = [view[..., band] for band in range(bands)]
    planes = jax.lax.fori_loop(0, len(JITTER), functools.partial(_jitter, drawn), planes)
    grays = gray(planes)
    stack = jnp.stack([jnp.where(drawn["gray"] > 0, grays, plane) for plane in planes])
    stack = _gaussian_blur(stack, drawn["blur_radius"], reach)
    inverted = (drawn["solarize"] > 0) & (stack >= SOLARIZE_THRESHOLD)
    stack = jnp.where(inverted, 255 - stack, stack)
    return jnp.concatenate([jnp.moveaxis(stack, 0, -1), view[..., bands:]], axis=-1)


def _jitter(drawn: dict[str, Array], place: Array, planes: list[Array]) -> list[Array]:
    """Applies the operation of the colour jitter whose turn it is, if one was drawn.

    All but the hue blend the view with what it would be at factor 0, black, its mean grey or its
    own grey: one blend does for the three. At factor 1 it changes nothing.

    Args:
      drawn: the value of each column.
      place: 0 for the first operation.
      planes: one (grey) or three (RGB), [H, W] uint8 each.
    """
    here = {name: drawn[f"{name}_place"] == place for name in JITTER}
    factor = blend_factor(drawn, here)
    grays = gray(planes)
    mean = rounded_mean(grays.sum(dtype=jnp.uint32), grays.size).astype(grays.dtype)
    base = jnp.where(here["contrast"], mean, jnp.where(here["saturation"], grays, 0))
    planes = [blend(base, plane, factor) for plane in planes]
    if len(planes) == 1:
        return planes
    shifted = shift_hue(planes, drawn["hue"])
    return [jnp.where(here["hue"], *pair) for pair in zip(shifted, planes, strict=True)]


def _gaussian_blur(planes: Array, radius: Array, reach: int) -> Array:
    """Pillow's `GaussianBlur`: box blurs, three along the rows, then three along the columns."""
    weights = box_weights(radius, reach)

    def blur(planes: Array, axis: int) -> Array:
        return jax.lax.fori_loop(0, 3, lambda _, x: _box_blur(x, weights, axis), planes)

    return blur(blur(planes, axis=2), axis=1)


def _box_blur(planes: Array, weights: Array, axis: int) -> Array:
    """Averages pixels along an axis by weights of their distances; edges repeat."""
    reach, size = len(weights) - 1, planes.shape[axis]
    padding = [(reach, reach) if i == axis else (0, 0) for i in range(planes.ndim)]
    padded = jnp.pad(planes, padding, mode="edge").astype(jnp.uint32)
    total = 2**23  # rounds
    for offset in range(-reach, reach + 1):
        start = reach + offset
        shifted = jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
        total += weights[abs(offset)] * shifted
    return (total >> 24).astype(jnp.uint8)
