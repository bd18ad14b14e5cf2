"""DICOM files: numbers by slope and intercept, levels by the window (PS3.3, C.11.1 and C.11.2).

MONOCHROME1, in which low numbers are bright, is turned round.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ibot_jax.data.pixels.raster import Raster, are_channels, chosen_frame
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import missing

if TYPE_CHECKING:
    import pydicom

MAGIC, MAGIC_AT = b"DICM", 128


def open_dicom(
    file: BinaryIO,
    channels: int,
    frame: int | None,
    window: tuple[float, float],
    white: float,
) -> Raster:
    """Opens a DICOM file.

    Args:
      file: of it.
      channels: that frames may have together; 0 if frames are never channels.
      frame: that is asked for; None is the first, or all as channels.
      window: centre and width in the file's units; a width of 0 takes the window that the file has
        first, and where it has none all numbers that its bits hold.
      white: where not 0, in place of these the numbers from 0 to this one.

    Raises:
      UnreadableImage: if pydicom is missing, or there is no such frame.
      Exception: of pydicom, of many kinds, where the file is corrupt.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise missing(error, "DICOM", "dicom") from error

    header = pydicom.dcmread(file, stop_before_pixels=True)
    frames, samples = int(header.get("NumberOfFrames") or 1), header.SamplesPerPixel
    together = are_channels(frames, samples, frame, channels)
    number = chosen_frame(frame, frames)
    index = None if together or frames == 1 else number
    _add_groups(header, number)
    colors = header.PhotometricInterpretation == "PALETTE COLOR"
    scale = None if colors or samples > 1 else _Scale(header, window, white)
    return Raster(
        header.Rows,
        header.Columns,
        3 if colors else samples * (frames if together else 1),
        f"{header.PhotometricInterpretation} of {header.BitsStored} bits",
        functools.partial(_read, file, header, index, scale),
        limits=scale.limits if scale else None,
    )


def _read(
    file: BinaryIO,
    header: "pydicom.Dataset",
    index: int | None,
    scale: "_Scale | None",
    boxes: Sequence[Box],
) -> np.ndarray:
    """Returns the numbers of a frame, or of all as channels, [H, W, C]."""
    import pydicom.pixels

    del boxes
    file.seek(0)
    values = pydicom.pixels.pixel_array(file, index=index)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return pydicom.pixels.apply_color_lut(values, header)
    if scale is not None:
        values = scale(values)
    if values.ndim > 2 and values.shape[-1] != header.get("SamplesPerPixel"):
        return np.moveaxis(values, 0, -1)  # frames
    return values.reshape(header.Rows, header.Columns, -1)


class _Scale:
    """How stored values become numbers, and which of them are black and white."""

    def __init__(self, header: Any, window: tuple[float, float], white: float):
        import pydicom.pixels

        self._header = header
        self._sign = -1 if header.PhotometricInterpretation == "MONOCHROME1" else 1
        self._sigmoid = self._table = None
        (center, width), function = window, "LINEAR_EXACT"
        if not width:
            center, width = (_first(header, name) for name in ("WindowCenter", "WindowWidth"))
            function = header.get("VOILUTFunction", "LINEAR")
        if width and function == "SIGMOID":
            self._sigmoid, limits = (center, width), (0.0, 1.0)
        elif width and function == "LINEAR":
            limits = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        elif width:
            limits = center - width / 2, center + width / 2
        elif header.get("VOILUTSequence"):
            self._table = True
            limits = 0.0, 2.0 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1
        elif white:
            limits = 0.0, white
        else:
            bits, signed = header.BitsStored, header.PixelRepresentation
            ends = np.array([-signed * 2 ** (bits - 1), 2 ** (bits - signed) - 1])
            ends = pydicom.pixels.apply_modality_lut(ends, header)
            limits = float(ends.min()), float(ends.max())
        self.limits = limits if self._sign > 0 else (-limits[1], -limits[0])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        import pydicom.pixels

        values = pydicom.pixels.apply_modality_lut(values, self._header)
        if self._table:
            values = pydicom.pixels.apply_voi(values, self._header)
        if self._sigmoid:
            center, width = self._sigmoid
            values = 1 / (1 + np.exp(-4 * (values - center) / width))
        return values.astype(np.float32) * self._sign


def _first(header: Any, name: str) -> float:
    """Returns a number of a header, of several the first (a file may have windows), 0 without."""
    value = header.get(name)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return float(value or 0)


def _add_groups(header: "pydicom.Dataset", frame: int) -> None:
    """Adds to a header what files of many frames say of all, or of one, in groups (C.7.6.16)."""
    of_all = header.get("SharedFunctionalGroupsSequence") or ()
    of_each = header.get("PerFrameFunctionalGroupsSequence") or ()
    for group in (*of_all[:1], *of_each[frame : frame + 1]):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name) or ():
                header.update(item)
