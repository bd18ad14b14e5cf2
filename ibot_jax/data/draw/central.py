"""The one undistorted view of an image that evaluations use: resized, and its centre cut out."""

import dataclasses
from typing import Any, Self

from PIL import Image

# By the names that timm gives them, too.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FITS = ("cover", "squash")
ROUNDINGS = ("even", "down")


@dataclasses.dataclass(frozen=True)
class CentralView:
    """How an image becomes a view of one size.

    Pixels are those of torchvision's `Resize` and `CenterCrop` on Pillow images, of timm and of
    transformers, as far as each of them can be told to do it.

    Attributes:
      size: height and width of the view, pixels.
      resize: height and width that the image is resized to before the centre is cut out. Equal
        ones, covered, are the image's shorter side.
      fit: "cover" keeps the image's aspect ratio, and makes it just large enough for `resize`;
        "squash" makes it exactly `resize`.
      interpolation: a key of `FILTERS`; all but nearest are antialiased.
      rounding: of half a pixel, where the centre has no pixel of its own: to "even" in torchvision
        and timm, "down" in transformers.
    """

    size: tuple[int, int]
    resize: tuple[int, int]
    fit: str = "cover"
    interpolation: str = "bicubic"
    rounding: str = "even"

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Returns the view that `to_json` has written.

        Raises:
          ValueError: if it is none.
        """
        try:
            view = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
            sides = (*view.size, *view.resize)
            sound = (
                (len(view.size), len(view.resize)) == (2, 2)
                and all(isinstance(side, int) and side > 0 for side in sides)
                and (view.fit in FITS and view.interpolation in FILTERS)
                and view.rounding in ROUNDINGS
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{fields!r} describes no view ({error})") from None
        if not sound:
            raise ValueError(f"{fields!r} describes no view")
        return view

    def to_json(self) -> dict[str, Any]:
        """Returns JSON types alone, {"size": [224, 224], ...}."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def of_size(self, size: tuple[int, int]) -> Self:
        """Returns the view of another size, before which images are resized in proportion."""
        sides = zip(self.resize, size, self.size, strict=True)
        resize = tuple(round(before * now / then) for before, now, then in sides)
        return dataclasses.replace(self, size=size, resize=resize)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of an image of this height and width when it is resized."""
        if self.fit == "squash":
            return self.resize
        high, wide = self.resize
        if high == wide:  # the longer side is rounded down, as torchvision does
            short = min(height, width)
            return high * height // short, high * width // short
        ratio = min(height / high, width / wide)  # rounded to the nearest, as timm does
        return round(height / ratio), round(width / ratio)

    def cut(self, image: Image.Image) -> Image.Image:
        """Returns the view of an image of any mode; where it is too small, black surrounds it."""
        height, width = self.resized(image.height, image.width)
        image = image.resize((width, height), FILTERS[self.interpolation])
        top, left = (
            self._offset(side, crop) for side, crop in zip((height, width), self.size, strict=True)
        )
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def _offset(self, side: int, crop: int) -> int:
        if side < crop:
            return -((crop - side) // 2)
        return round((side - crop) / 2) if self.rounding == "even" else (side - crop) // 2

    def __str__(self) -> str:
        high, wide = self.resize
        if self.fit == "squash":
            resized = f"stretched to {high} x {wide} pixels"
        elif high == wide:
            resized = f"shorter side {high} pixels"
        else:
            resized = f"as small as covers {high} x {wide} pixels"
        crop = f", then the central {self.size[0]} x {self.size[1]}"
        whole = self.fit == "squash" and self.size == self.resize
        return f"{resized}, {self.interpolation}{'' if whole else crop}"


def view_of_run(size: tuple[int, int], resize: int) -> CentralView:
    """Returns how a run's evaluations see images.

    Args:
      size: height and width of the view, `data.global_size`.
      resize: `knn.resize`: the shorter side of images. Before a view that is not square they are
        as small as covers the view enlarged to this longer side, so that the crop takes the same
        share of both.
    """
    longest = max(size)
    return CentralView(tuple(size), tuple(side * resize // longest for side in size))


def view_of_old_export(size: tuple[int, int], resize: int | None) -> CentralView:
    """Returns the view of exports that say no more than the shorter side, or nothing."""
    side = resize or round(min(size) * 8 / 7)
    return CentralView(tuple(size), (side, side))
