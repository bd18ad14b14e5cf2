"""Operations on colours in whole levels, as Pillow has them: of the definition and of kernels."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def blur_reach(max_blur_radius: float) -> int:
    """Returns the distance of the farthest pixel that a box of the blur reads."""
    # Solves r * (r + 1) = variance, that of three boxes of radius r in turn.
    return math.ceil((math.sqrt(4 * max_blur_radius**2 + 1) - 1) / 2)


def blend_factor(drawn: dict[str, Array], here: dict[str, Array]) -> Array:
    """Returns the factor of the operation whose turn it is; 1 where that blends nothing.

    Args:
      drawn: the value of each column.
      here: whether it is an operation's turn.
    """
    factor = jnp.float32(1)
    for name in ("brightness", "contrast", "saturation"):
        factor = jnp.where(here[name], drawn[name], factor)
    return factor


def blend(base: Array, plane: Array, factor: Array) -> Array:
    """Pillow's `Image.blend`: clips to levels, and cuts fractions off; of the plane's dtype."""
    dtype = plane.dtype
    base, plane = base.astype(jnp.float32), plane.astype(jnp.float32)
    # Clipping between product and sum keeps a compiler from rounding them once instead of twice.
    change = jnp.clip(factor * (plane - base), -base, 255 - base)
    return (base + change).astype(dtype)


def rounded_mean(total: Array, number: int) -> Array:
    """Returns a sum's mean, rounded. In whole numbers, so that no order of summation matters."""
    return jax.lax.div(2 * total + number, jnp.asarray(2 * number, total.dtype))


def gray(planes: list[Array]) -> Array:
    """Pillow's conversion to "L" (ITU-R 601-2), of the planes' dtype."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = (plane.astype(jnp.int32) for plane in planes)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(planes[0].dtype)


def shift_hue(planes: list[Array], turns: Array) -> list[Array]:
    """Turns the colour wheel of RGB planes as torchvision does on Pillow images.

    Args:
      planes: three, of any whole numbers.
      turns: by how much.

    Returns:
      Three of the same dtype.
    """
    hue, saturation, value = _rgb_to_hsv(planes)
    hue = (hue + (255 * turns).astype(jnp.int32)) & 255  # wraps around, as hues do
    hue, saturation, value = (plane.astype(jnp.float32) for plane in (hue, saturation, value))

    def channel(start: int) -> Array:
        # In 85ths of a sixth of the wheel, so that every number is whole. A channel falls from
        # the value to its lowest over a sixth, stays there for two, and rises over another.
        position = 2 * hue + 85 * start
        position = jnp.where(position < 510, position, position - 510)
        depth = jnp.clip(jnp.minimum(position, 340 - position), 0, 85)
        level = value * (85 * 255 - saturation * depth) / (85 * 255)
        return (level + 0.5).astype(planes[0].dtype)

    return [channel(start) for start in (5, 3, 1)]  # red, green, blue


def _rgb_to_hsv(planes: list[Array]) -> tuple[Array, Array, Array]:
    """Pillow's conversion of RGB planes to hue, saturation and value, int32 from 0 to 255.

    Pillow cuts fractions off in the end, so where the exact hue is whole its roundings on the way
    decide; they are repeated here.
    """
    red, green, blue = (plane.astype(jnp.float32) for plane in planes)
    value = jnp.maximum(red, jnp.maximum(green, blue))
    lowest = jnp.minimum(red, jnp.minimum(green, blue))
    chroma = value - lowest
    middle = red + green + blue - value - lowest
    below = (value - middle) / jnp.maximum(chroma, 1)
    sixths = jnp.where(
        red == value,
        jnp.where(green >= blue, 1 - below, below - 1),
        jnp.where(
            green == value,
            jnp.where(red >= blue, 1 + below, 3 - below),
            jnp.where(green >= red, 3 + below, 5 - below),
        ),
    )
    # Divided by 6: a compiler multiplies by 1/6 instead, and the remainder (exact) mends that.
    turns = sixths / 6
    turns += (sixths - 4 * turns - 2 * turns) / 6
    turns = jnp.where(sixths < 0, turns + 1, turns)
    hue = jnp.where(chroma > 0, 255 * turns, 0)
    # Whole numbers plus a quarter: no rounding error of the division reaches a whole quotient.
    saturation = (255 * chroma + 0.25) / jnp.maximum(value, 1)
    return tuple(plane.astype(jnp.int32) for plane in (hue, saturation, value))


def box_weights(radius: Array, reach: int) -> Array:
    """Finds the box that, three times over, is as wide as a Gaussian of this standard deviation.

    Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"
    (2011), eq. 7, 11 and 14: pixels up to a distance count in full, those after in part. The
    weights are Pillow's, in units of 2**-24; a radius of 0 leaves only the pixel itself.

    Returns:
      Weights of the pixels at the distances 0 to `reach`, [reach + 1] uint32.
    """
    variance = radius**2 / 3
    full = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * full + 1) * (full * (full + 1) - 3 * variance)
    part /= 6 * (variance - (full + 1) ** 2)
    inner = (2**24 / (2 * (full + part) + 1)).astype(jnp.uint32)
    outer = (2**24 - (2 * full.astype(jnp.uint32) + 1) * inner) // 2
    distance = jnp.arange(reach + 1)
    return jnp.where(distance <= full, inner, jnp.where(distance == full + 1, outer, 0))
