"""What happens to a view's colours, as a row of numbers that travels in a batch.

The host draws it; `data/pixels/host_colors.py` applies it to one Pillow image, `kernels/colors.py`
to all views of a batch at once, on the accelerator. The processes that make views import it.
"""

import dataclasses

JITTER = ("brightness", "contrast", "saturation", "hue")
_INDEX = {name: index for index, name in enumerate(JITTER)}
# One column each: switches (0 or 1), the blur's standard deviation in pixels (0 for none), the
# factor of each operation of the jitter, and its place in their order (-1 where left out).
_PLACES = tuple(f"{name}_place" for name in JITTER)
COLUMNS = ("flip", "gray", "solarize", "blur_radius", *JITTER, *_PLACES)
SOLARIZE_THRESHOLD = 128


@dataclasses.dataclass(frozen=True)
class Color:
    """What happens to one view, in this order.

    Attributes:
      flip: whether left and right are exchanged.
      jitter: (name of the operation, factor) pairs in the order of their application.
      gray: whether colours are dropped.
      blur_radius: standard deviation in pixels; 0 for none.
      solarize: whether pixels from `SOLARIZE_THRESHOLD` on are inverted.
    """

    flip: bool
    jitter: tuple[tuple[str, float], ...]
    gray: bool
    blur_radius: float
    solarize: bool

    def row(self) -> tuple[float, ...]:
        """Returns the numbers of `COLUMNS`."""
        factors, places = [0.0] * len(JITTER), [-1.0] * len(JITTER)
        for place, (name, factor) in enumerate(self.jitter):
            factors[_INDEX[name]], places[_INDEX[name]] = factor, place
        switches = self.flip, self.gray, self.solarize, self.blur_radius
        return (*switches, *factors, *places)
