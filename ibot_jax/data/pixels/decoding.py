"""How files become pixels: what a config says of it."""

import dataclasses

from ibot_jax.config.defaults import MAX_PIXELS
from ibot_jax.config.section import Section

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become pixels; docs/data.md has the rules.

    Attributes:
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), to which images are converted; or
        more, which they have.
      range: the number that is white in images of more than 8 bits; 0 is 65535, and no number of
        floats.
      exif: whether images are turned as their EXIF orientation says.
      max_pixels: larger images are not read.
      bands: whether up to four channels are bands, too, which images have.
      clip_percentiles: of the numbers of a channel, those that are black and white; (0, 0) goes by
        the range.
      window: centre and width of what is shown of a DICOM file; of width 0 it is the file's.
    """

    channels: int = 3
    range: float = 0.0
    exif: bool = False
    max_pixels: int = MAX_PIXELS
    bands: bool = False
    clip_percentiles: tuple[float, float] = (0.0, 0.0)
    window: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, data: Section) -> "Decoding":
        """Returns what the section `data` of a config says."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})

    @property
    def apart(self) -> bool:
        """Whether channels are bands, such as a satellite's, each a grey of its own."""
        return self.channels > 4 or (self.bands and self.channels > 1)

    @property
    def rescales(self) -> bool:
        """Whether it says which numbers are black and white."""
        return self.range > 0 or any(self.clip_percentiles)
