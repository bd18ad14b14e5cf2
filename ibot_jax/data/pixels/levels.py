"""Numbers of any type as the 256 levels that views have."""

from collections.abc import Sequence

import numpy as np

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage

_SIXTEEN_BITS = 2**16 - 1
# Below are the numbers of a camera or scanner with 14 bits or fewer, which nobody meant for 16.
_DARK = 2**14


def to_levels(
    values: np.ndarray,
    limits: tuple[float, float] | None,
    decoding: Decoding,
    boxes: Sequence[Box] = (),
) -> tuple[np.ndarray, str]:
    """Returns numbers as the 256 levels that a config asks for.

    Args:
      values: [H, W, C] of any type.
      limits: the numbers that are black and white by the file; None where it does not tell.
      decoding: percentiles come before the file's limits, and these before the range.
      boxes: of which alone levels are needed, each by itself; none for all.

    Returns:
      [H, W, C] uint8, 0 outside of boxes, and a sentence, "" if nothing is odd.

    Raises:
      UnreadableImage: as `by_range`.
    """
    if boxes:
        pixels, notes = np.zeros(values.shape, np.uint8), []
        for top, left, height, width in boxes:
            part = slice(top, top + height), slice(left, left + width)
            pixels[part], note = to_levels(values[part], limits, decoding)
            notes.append(note)
        return pixels, next(filter(None, notes), "")
    if any(decoding.clip_percentiles):
        colors = values.shape[2] - (not decoding.apart and values.shape[2] in (2, 4))
        return by_percentiles(values, decoding.clip_percentiles, colors), ""
    if limits is not None:
        return between(values, *limits), ""
    return by_range(values, decoding.range)


def clipped(pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Returns pixels, [H, W] or [H, W, C] uint8, as `Decoding.clip_percentiles` says."""
    if not any(decoding.clip_percentiles):
        return pixels
    found, _ = to_levels(pixels.reshape(*pixels.shape[:2], -1), None, decoding)
    return found.reshape(pixels.shape)


def check_numbers(values: np.ndarray) -> None:
    """Raises `UnreadableImage` where values are no finite numbers."""
    if values.dtype.kind not in "buif":
        raise UnreadableImage(f"it holds {values.dtype}, which are no pixels")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableImage("it holds values that are no finite numbers")


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns numbers [...] as uint8, 0 up to `low` and 255 from `high` on, rounded."""
    kind = np.result_type(values, np.float32)  # float64 of 32 bits
    scaled = (values.astype(kind) - low) / max(high - low, np.finfo(kind).tiny)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def by_percentiles(
    values: np.ndarray, percentiles: tuple[float, float], clipped: int
) -> np.ndarray:
    """Returns numbers such that two percentiles of each channel become black and white.

    Args:
      values: [H, W, C] of any type.
      percentiles: the two.
      clipped: how many channels they are of; those behind, alpha, stay the upper 8 bits.

    Returns:
      [H, W, C] uint8.
    """
    check_numbers(values)
    bands = []
    for band in np.moveaxis(values, -1, 0)[:clipped]:
        bands.append(between(band, *_percentiles(band, percentiles).tolist()))
    rest = by_range(values[..., clipped:], 0.0)[0] if clipped < values.shape[-1] else ()
    return np.dstack([*bands, *np.moveaxis(rest, -1, 0)] if len(rest) else bands)


def _percentiles(band: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Returns what `np.percentile` does, of few numbers by counting, which is quicker."""
    if band.dtype not in (np.uint8, np.uint16):
        return np.percentile(band, percentiles)
    places = np.array(percentiles) / 100 * (band.size - 1)
    up_to = np.cumsum(np.bincount(band.ravel()))
    low, high = (np.searchsorted(up_to, f(places), side="right") for f in (np.floor, np.ceil))
    return low + (high - low) * (places % 1)


def by_range(values: np.ndarray, white: float) -> tuple[np.ndarray, str]:
    """Returns numbers of more than 8 bits by the number that is white, and what is odd about them.

    Args:
      values: [...] of any type; those of 8 bits, and truth values, know no range.
      white: 0 is 65535 for integers, and unknown for floats.

    Returns:
      [...] uint8, and a sentence, "" if nothing is odd.

    Raises:
      UnreadableImage: if they are floats of an unknown range, or no numbers.
    """
    if values.dtype == np.uint8:
        return values, ""
    if values.dtype == bool:
        return values.astype(np.uint8) * 255, ""
    floats = values.dtype.kind == "f"
    if floats and not white:
        raise UnreadableImage(
            "floating-point pixels have no known range; data.range (--range) says what is white"
        )
    check_numbers(values)
    low, high = values.min().item(), values.max().item()
    most, note = white or _SIXTEEN_BITS, ""
    if high > most:
        note = f"its values reach {high:g}: those above {most:g} are white (data.range, --range)"
    elif low < 0:
        note = f"its values reach {low:g}: those below 0 are black"
    elif not white and high < _DARK:
        likely = 2 ** max(int(high).bit_length(), 8) - 1
        note = (
            f"its values reach {high} of {most}, so it is dark; if that is not meant, "
            f"data.range={likely} (--range={likely}) makes {likely} white"
        )
    if floats or most != int(most):
        kind = np.result_type(values, np.float32)
        scaled = np.round(np.clip(values.astype(kind) / most, 0, 1) * 255)
    elif values.dtype == np.uint16 and most == _SIXTEEN_BITS:
        scaled = values >> 8
    else:  # of 16 bits the upper byte, likewise
        kind = np.int32 if values.dtype.itemsize <= 2 and most < 2**23 else np.int64
        scaled = np.clip(values.astype(kind), 0, int(most)) * 256 // (int(most) + 1)
    return scaled.astype(np.uint8), note
