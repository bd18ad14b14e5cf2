"""From arrays to pictures: colours, panels, and sheets of labelled panels; all with Pillow."""

import colorsys
import contextlib
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed
from ibot_jax.files.paths import absolute_path, require_writable, writing
from ibot_jax.files.remote import is_remote

FORMATS = (".png", ".webp", ".jpg", ".jpeg")
INK, PAPER = (38, 38, 43), (255, 255, 255)

# Ten equidistant colours of matplotlib's "magma" (public domain): equal steps look equally large.
_MAGMA = np.array(
    [
        [0x00, 0x00, 0x04],
        [0x18, 0x0F, 0x3D],
        [0x44, 0x0F, 0x76],
        [0x72, 0x1F, 0x81],
        [0x9E, 0x2F, 0x7F],
        [0xCD, 0x40, 0x71],
        [0xF1, 0x60, 0x5D],
        [0xFD, 0x96, 0x68],
        [0xFE, 0xCA, 0x8D],
        [0xFC, 0xFD, 0xBF],
    ]
)


def heat(values: np.ndarray) -> np.ndarray:
    """Colours numbers by "magma", perceptually uniform from black to light yellow.

    Args:
      values: [...], in [0, 1].

    Returns:
      [..., 3] uint8.
    """
    positions = np.clip(values, 0, 1) * (len(_MAGMA) - 1)
    channels = [np.interp(positions, range(len(_MAGMA)), _MAGMA[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def distinct_colors(number: int) -> np.ndarray:
    """Returns [number, 3] uint8, saturated colours whose hues are evenly spread."""
    hues = (index / max(number, 1) for index in range(number))
    colors = [colorsys.hsv_to_rgb((hue + 0.02) % 1, 0.7, 0.95) for hue in hues]
    return np.round(np.array(colors).reshape(number, 3) * 255).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels [H, W, C] uint8 of 1 to 4 channels as [H, W, 3]; alpha is dropped."""
    if pixels.shape[-1] <= 2:
        return np.repeat(pixels[..., :1], 3, axis=-1)
    return pixels[..., :3]


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels [H, W, C] uint8 as greys [H, W, 3]."""
    gray = np.asarray(Image.fromarray(to_rgb(pixels)).convert("L"))
    return np.repeat(gray[..., None], 3, axis=-1)


def per_pixel(patches: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Repeats an entry for each patch [h, w, ...] over the patch's pixels: [H, W, ...].

    Args:
      patches: what to repeat.
      shape: H and W first, multiples of h and w.
    """
    rows, columns = shape[0] // patches.shape[0], shape[1] // patches.shape[1]
    return patches.repeat(rows, axis=0).repeat(columns, axis=1)


def blend(pixels: np.ndarray, colors: np.ndarray, opacity: float | np.ndarray) -> np.ndarray:
    """Lays colours [H, W, 3] over pixels [H, W, 3], opaque by a number or by [H, W, 1]."""
    mixed = pixels * (1 - np.asarray(opacity)) + colors * np.asarray(opacity)
    return mixed.round().astype(np.uint8)


def panel(pixels: np.ndarray, side: int) -> Image.Image:
    """Returns pixels [H, W, 3] uint8 as a picture whose longer side is `side`.

    Whole multiples keep hard edges of pixels and patches; others are resampled.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    image = Image.fromarray(pixels)
    if scale >= 1:  # at least so large that smoothing only touches the edges
        whole = int(np.ceil(scale))
        image = image.resize((width * whole, height * whole), Image.Resampling.NEAREST)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


def photo(pixels: np.ndarray, side: int) -> Image.Image:
    """Returns pixels [H, W, C] uint8 as a picture whose longer side is `side`, smoothly."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return Image.fromarray(to_rgb(pixels)).resize(size, Image.Resampling.BICUBIC)


def font(cell: int) -> ImageFont.FreeTypeFont:
    """Returns the font of labels for panels of `cell` pixels."""
    found = ImageFont.load_default(min(max(cell / 12, 11), 40))
    return cast(ImageFont.FreeTypeFont, found)  # which it is where it has a size


def captioned(picture: Image.Image, text: str, cell: int) -> Image.Image:
    """Returns a picture with a line of text above it, for panels of `cell` pixels."""
    type_ = font(cell)
    line = sum(type_.getmetrics()) + max(cell // 32, 3) // 2
    whole = Image.new("RGB", (picture.width, picture.height + line), PAPER)
    ImageDraw.Draw(whole).text((0, 0), text, fill=INK, font=type_)
    whole.paste(picture, (0, line))
    return whole


def sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    labels: Sequence[str] = (),
    *,
    cell: int,
    groups: int = 1,
    swatches: Sequence[Sequence[int] | None] = (),
) -> Image.Image:
    """Arranges panels in rows and columns on white.

    Args:
      rows: of panels no larger than `cell`; None leaves a place empty.
      labels: of the columns, written above the first row.
      cell: width of each column, pixels; rows are as high as their highest panel.
      groups: how many rows belong together; wider gaps part one group from the next.
      swatches: a colour for each label, to be shown before it, or None.
    """
    gap, type_ = min(max(cell // 32, 3), 8), font(cell)
    line = sum(type_.getmetrics()) + gap if labels else 0
    heights = [max((image.height for image in row if image), default=0) for row in rows]
    columns = max(len(row) for row in rows)
    tops = [3 * gap + line]
    for number, height in enumerate(heights, 1):
        tops.append(tops[-1] + height + (gap if number % groups else 3 * gap))
    size = (columns * (cell + gap) - gap + 6 * gap, tops[-1])
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    for column, text in enumerate(labels):
        left = 3 * gap + column * (cell + gap)
        swatch = swatches[column] if swatches else None
        if swatch is not None:
            ascent = type_.getmetrics()[0]
            box = (left, 2.4 * gap, left + 0.8 * ascent, 2.4 * gap + 0.8 * ascent)
            draw.rectangle([round(x) for x in box], fill=tuple(int(c) for c in swatch))
            left += ascent
        draw.text((left, 2 * gap), text, fill=INK, font=type_)
    for row, top, height in zip(rows, tops, heights, strict=False):
        for column, image in enumerate(row):
            if image:
                left = 3 * gap + column * (cell + gap) + (cell - image.width) // 2
                picture.paste(image, (left, top + (height - image.height) // 2))
    return picture


def check_out(path: str, formats: Sequence[str] = FORMATS) -> epath.Path:
    """Returns where a figure is to be written, before anything is computed for it.

    Raises:
      UserError: if the format is none that can be written, or `path` is a folder or cannot be made.
    """
    target = local_path(path)
    if target.suffix.lower() not in formats:
        raise UserError(f"--out={path} does not say its format; end it in {', '.join(formats)}")
    if target.is_dir():
        raise UserError(f"--out={path} is a folder; name a file in it")
    require_writable(target, "--out")
    return target


def local_path(path: str) -> epath.Path:
    """Returns --out as an absolute path.

    Raises:
      UserError: if it is not on a disk.
    """
    if is_remote(path):
        raise UserError(f"--out={path} is no local path, which figures need; give one")
    return absolute_path(path)


def save(picture: Image.Image, target: epath.Path) -> None:
    """Writes a picture, under a temporary name first; its extension says the format.

    Raises:
      UserError: if it cannot be written.
    """
    options = {".png": dict(optimize=True)}.get(target.suffix.lower(), dict(quality=85))
    with written(target) as temporary:
        picture.save(temporary, **options)


@contextlib.contextmanager
def written(target: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path of the same suffix, which takes the place of `target` at the end.

    Raises:
      UserError: if it cannot be written.
    """
    with writing("--out", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with renamed(target) as temporary:
            yield temporary
