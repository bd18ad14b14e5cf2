"""What `kernels.colors` does to the colours of views, as a kernel for a TPU: a view at a time.

A view stays in the chip's vector memory from its first operation to its last, and what was not
drawn for it is left out. Operations go over strips of rows, which fit the registers; the blur goes
over 128 columns at a time, down the rows, where a neighbour is a register away, and over the
transposed view for the other direction.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ibot_jax.kernels import color_operations as operations
from ibot_jax.kernels.color_table import COLUMNS, JITTER, SOLARIZE_THRESHOLD
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import ColorsSpec, Spec, anything, covers
from ibot_jax.kernels.tpu.kernel import run_kernel

Array = jax.Array

_LANES = 128  # columns that a TPU works on at once
_STRIP = 32  # rows that an operation works on, in registers
_LARGEST = 384  # pixels of a side: the program grows with the view


_KNOWN = {
    "views": lambda views: views > 0,
    "height": lambda height: height <= _LARGEST and height % 8 == 0,
    "width": lambda width: width <= _LARGEST,
    "channels": (1, 2, 3, 4),
    "max_blur_radius": anything,
}


def supports(spec: Spec, device: Device) -> bool:
    """Returns whether `apply_colors` computes this on such a device."""
    return (
        isinstance(spec, ColorsSpec)
        and (device.platform == "tpu" and not device.partitioned and device.tensor == 1)
        and covers(_KNOWN, spec)
    )


def apply_colors(views: Array, colors: Array, spec: ColorsSpec, device: Device) -> Array:
    """Does what `kernels.colors.apply_colors` does.

    To the byte where division rounds as IEEE 754 says. On other platforms than a TPU it is
    interpreted.
    """
    del device
    height, width, channels = views.shape[-3:]
    bands = 1 if channels < 3 else 3
    reach = operations.blur_reach(spec.max_blur_radius)
    flat_views = views.reshape(-1, height, width, channels)
    rows = colors.reshape(-1, 1, len(COLUMNS))
    flip = rows[:, :, :1, None] > 0  # by XLA, which copies the views anyway
    flat_views = jnp.where(flip, flat_views[:, :, ::-1], flat_views)
    weights = jax.vmap(functools.partial(operations.box_weights, reach=reach))(
        rows[:, 0, COLUMNS.index("blur_radius")]
    ).astype(jnp.int32)[:, None]
    planes = flat_views[..., :bands].transpose(0, 3, 1, 2)

    def scalars(x):
        return pl.BlockSpec((1, *x.shape[1:]), lambda i: (i, 0, 0), memory_space=pltpu.SMEM)

    view = pl.BlockSpec((1, *planes.shape[1:]), lambda i: (i, 0, 0, 0))
    changed = run_kernel(
        change_colors,
        f"colors_{height}x{width}",
        (len(planes),),
        (rows, weights, planes),
        out_shape=jax.ShapeDtypeStruct(planes.shape, planes.dtype),
        in_specs=[scalars(rows), scalars(weights), view],
        out_specs=view,
        scratch_shapes=[pltpu.VMEM(planes.shape[1:], jnp.int32)],
    )
    changed = changed.transpose(0, 2, 3, 1)
    return jnp.concatenate([changed, flat_views[..., bands:]], axis=-1).reshape(views.shape)


def change_colors(colors, weights, view, out, planes):
    """Changes the colours of one view, [1, bands, H, W] uint8; works in `planes`, int32."""
    drawn = {name: colors[0, 0, i] for i, name in enumerate(COLUMNS)}
    planes[...] = view[0].astype(jnp.int32)
    jax.lax.fori_loop(0, len(JITTER), functools.partial(_jitter, drawn, planes), None)

    @pl.when(drawn["gray"] > 0)
    def _():
        _on_strips(planes, lambda strips: [operations.gray(strips)] * len(strips))

    @pl.when(drawn["blur_radius"] > 0)
    def _():
        _blur(planes, [weights[0, 0, i] for i in range(weights.shape[2])])

    @pl.when(drawn["solarize"] > 0)
    def _():
        _on_strips(
            planes, lambda strips: [jnp.where(x >= SOLARIZE_THRESHOLD, 255 - x, x) for x in strips]
        )

    out[0] = planes[...].astype(out.dtype)


def _jitter(drawn, planes, place, _):
    """Applies the operation of the colour jitter whose turn it is, if one was drawn."""
    here = {name: drawn[f"{name}_place"] == place for name in JITTER}
    factor = operations.blend_factor(drawn, here)

    @pl.when(here["brightness"])
    def _():
        black = jnp.int32(0)
        _on_strips(planes, lambda strips: [operations.blend(black, x, factor) for x in strips])

    @pl.when(here["contrast"])
    def _():
        total = sum(operations.gray(strips).sum() for _, strips in _strips(planes))
        mean = operations.rounded_mean(total, math.prod(planes.shape[1:]))
        _on_strips(planes, lambda strips: [operations.blend(mean, x, factor) for x in strips])

    @pl.when(here["saturation"])
    def _():
        def blend(strips):
            gray = operations.gray(strips)
            return [operations.blend(gray, x, factor) for x in strips]

        _on_strips(planes, blend)

    if planes.shape[0] == 3:

        @pl.when(here["hue"])
        def _():
            _on_strips(planes, lambda strips: operations.shift_hue(strips, drawn["hue"]))


def _strips(planes):
    """Yields strips of rows of all planes: the rows, and what lies in them, a band each."""
    bands, height, _ = planes.shape
    for start in range(0, height, _STRIP):
        rows = slice(start, min(start + _STRIP, height))
        yield rows, [planes[band, rows, :] for band in range(bands)]


def _on_strips(planes, function):
    """Replaces the planes strip by strip with what a function of one strip of each gives."""
    for rows, strips in _strips(planes):
        for band, strip in enumerate(function(strips)):
            planes[band, rows, :] = strip


def _blur(planes, weights):
    """Pillow's `GaussianBlur`: box blurs, three along the rows, then three along the columns."""
    bands, height, width = planes.shape
    for band in range(bands):
        for start in range(0, height, _LANES):
            rows = slice(start, min(start + _LANES, height))
            planes[band, rows, :] = _blur_down(planes[band, rows, :].T, weights).T
        for start in range(0, width, _LANES):
            columns = slice(start, min(start + _LANES, width))
            planes[band, :, columns] = _blur_down(planes[band, :, columns], weights)


def _blur_down(x, weights):
    """Averages each pixel of [H, W] with those above and below, three times; edges repeat."""
    reach, size = len(weights) - 1, x.shape[0]
    for _ in range(3):
        padded = jnp.concatenate([x[:1]] * reach + [x] + [x[-1:]] * reach)
        total = 2**23 + weights[0] * x  # rounds
        for distance in range(1, reach + 1):
            above = padded[reach - distance : reach - distance + size]
            below = padded[reach + distance : reach + distance + size]
            total += weights[distance] * (above + below)
        x = jax.lax.shift_right_logical(total, 24)  # 32 bits, of which none is a sign
    return x
