"""Where the class token looks in the last block, head by head.

For each image two rows. Above: the image, the attention averaged over the heads, and each head's,
from dark (none) to light (most). Below: what every head looks at, in its colour, and then the
smallest set of patches that holds --mass of the attention, the rest darkened.

With --frames the images are the frames of a video: a folder of frames in the order of their names,
or animated files (GIF, WebP, PNG). --out then is a folder, for the numbered frames of the figure
and an animation of them. Of other videos extract the frames first.
"""

import argparse
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from ibot_jax.cli.flags import add_number, add_weights_options
from ibot_jax.models.parameters import Params
from ibot_jax.screen import canvas
from ibot_jax.visualize import frames
from ibot_jax.visualize.options import (
    add_image_options,
    add_output_options,
    open_model,
    share_above_zero,
)
from ibot_jax.visualize.pictures import picture_size, read_pictures
from ibot_jax.weights.model import Model

# uint8 [H, W, C] to attention [heads, h, w] float32.
AttentionFn = Callable[[np.ndarray], np.ndarray]
_DARKENED = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this figure."""
    add_weights_options(parser)
    add_image_options(parser, number=4)
    add_output_options(parser, cell=160)
    parser.add_argument(
        "--mass",
        default=0.6,
        type=share_above_zero,
        metavar="SHARE",
        help="of the attention that the patches shown below hold (default: 0.6)",
    )
    group = parser.add_argument_group("video")
    group.add_argument(
        "--frames", action="store_true", help="the images are those of a video, all shown"
    )
    group.add_argument(
        "--animation",
        default="webp",
        choices=("webp", "gif"),
        help="format of the animated file (default: webp)",
    )
    add_number(group, "--fps", 10, "frames a second of the animation")


def run(args: argparse.Namespace) -> None:
    """Draws the figure, or the frames of one, and writes them."""
    out = frames.check_folder(args.out) if args.frames else canvas.check_out(args.out)
    model, params = open_model(args)
    attend = attention_fn(model, params)
    if args.frames:
        pictures = frames.read(args, picture_size(args, model), model)
        drawn = (draw_frame(picture, attend, args.mass, args.cell) for picture in pictures)
        print(frames.write(drawn, out, args.animation, args.fps))
        return
    pictures = read_pictures(args, model)
    canvas.save(draw(pictures, attend, args.mass, args.cell), out)
    print(f"written to {out}")


def attention_fn(model: Model, params: Params) -> AttentionFn:
    """Returns the function that computes the class token's attention to the patches of an image.

    The attention to the class token itself is left out: that to the patches sums to 1, head by
    head. Images of one size share a compilation.
    """

    @jax.jit
    def program(params, pixels):
        return model.attention(params, pixels[None]).cls[0]

    def attend(pixels: np.ndarray) -> np.ndarray:
        weights = np.asarray(program(params, pixels))
        return weights / weights.sum(axis=(1, 2), keepdims=True)

    return attend


def mass_set(attention: np.ndarray, mass: float) -> np.ndarray:
    """Returns the smallest set of patches that holds a share of the attention.

    Args:
      attention: [..., h, w], not negative.
      mass: share of its sum, in (0, 1].

    Returns:
      [..., h, w] bool.
    """
    flat = attention.reshape(*attention.shape[:-2], -1).astype(np.float64)
    order = np.argsort(-flat, axis=-1, kind="stable")
    ranked = np.take_along_axis(flat, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked  # held by the patches that rank higher
    needed = before < mass * flat.sum(axis=-1, keepdims=True)
    chosen = np.zeros_like(needed)
    np.put_along_axis(chosen, order, needed, axis=-1)
    return chosen.reshape(attention.shape)


def draw(pictures: list[np.ndarray], attend: AttentionFn, mass: float, cell: int) -> Image.Image:
    """Draws the figure: two rows for each image."""
    rows, heads = [], 0
    for picture in pictures:
        attention = attend(picture)
        maps = np.concatenate([attention.mean(axis=0, keepdims=True), attention])
        heads = len(attention)
        colored = canvas.panel(color_heads(picture, attention, mass), cell)
        shape = picture.shape
        hot = [canvas.panel(canvas.per_pixel(_heat(values), shape), cell) for values in maps]
        kept = [canvas.panel(spotlight(picture, chosen), cell) for chosen in mass_set(maps, mass)]
        rows += [[canvas.photo(picture, cell), *hot], [colored, *kept]]
    labels = ["image", "mean of heads", *(f"head {number + 1}" for number in range(heads))]
    swatches = [None, None, *canvas.distinct_colors(heads)]
    return canvas.sheet(rows, labels, cell=cell, groups=2, swatches=swatches)


def draw_frame(picture: np.ndarray, attend: AttentionFn, mass: float, cell: int) -> Image.Image:
    """Draws one frame: the image, the heads' mean attention, and the patches that hold it."""
    attention = attend(picture).mean(axis=0)
    colors = canvas.per_pixel(_heat(attention), picture.shape)
    panels = [
        canvas.photo(picture, cell),
        canvas.panel(canvas.blend(canvas.to_gray(picture), colors, 0.7), cell),
        canvas.panel(spotlight(picture, mass_set(attention, mass)), cell),
    ]
    return canvas.sheet([panels], cell=cell)


def color_heads(pixels: np.ndarray, attention: np.ndarray, mass: float) -> np.ndarray:
    """Lays each head's colour over the patches that hold its mass, mixed where heads agree.

    Args:
      pixels: [H, W, C] uint8.
      attention: [heads, h, w].
      mass: see `mass_set`.

    Returns:
      [H, W, 3] uint8.
    """
    chosen = mass_set(attention, mass).astype(np.float64)  # [heads, h, w]
    number = chosen.sum(axis=0)[..., None]
    colors = canvas.distinct_colors(len(attention)).astype(np.float64)
    mixed = np.einsum("khw,kc->hwc", chosen, colors) / np.maximum(number, 1)
    opacity = canvas.per_pixel(0.65 * (number > 0), pixels.shape)
    background = canvas.to_gray(pixels) * 0.6
    return canvas.blend(background, canvas.per_pixel(mixed, pixels.shape), opacity)


def spotlight(pixels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Darkens all but the chosen patches [h, w] of pixels [H, W, C]; returns [H, W, 3] uint8."""
    outside = canvas.per_pixel(~chosen[..., None] * _DARKENED, pixels.shape)
    return canvas.blend(canvas.to_rgb(pixels), np.zeros(3), outside)


def _heat(attention: np.ndarray) -> np.ndarray:
    return canvas.heat(attention / attention.max())
