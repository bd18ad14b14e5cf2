"""Which patches of two pictures match: two views of an image, or two images of one class.

A line joins two patches whose tokens are nearest to each other, by cosine, among all of the other
picture, from both sides; the best --matches are drawn, each in a colour by where it begins.

--pairs=views cuts two views of each image as training does (crop, flip, colours); --pairs=class
takes two images of a class, of class folders or digits; --pairs=given takes the images two by two.
"""

import argparse
import colorsys
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw

from ibot_jax.cli.flags import add, add_number, add_weights_options
from ibot_jax.data.make.examples import MakeExample
from ibot_jax.data.sources.opening import Source
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.screen import canvas
from ibot_jax.visualize.options import add_image_options, add_output_options, open_model
from ibot_jax.visualize.pictures import (
    MAX_NUMBER,
    open_images,
    picture_size,
    read_pixels,
    readable,
    spread,
    view_size,
)
from ibot_jax.weights.model import Model

Pair = tuple[np.ndarray, np.ndarray]  # [H, W, C] uint8 each
_FINE = 3  # lines are drawn so many times as large, and then smoothed
_COLUMNS = 2


class Matches(NamedTuple):
    """Patches that match, best first.

    Attributes:
      first: [n] int, patches of the first picture, counted row by row.
      second: [n] int, of the second picture.
      similarity: [n] float32, cosines.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this figure."""
    add_weights_options(parser)
    add_image_options(parser)
    add_output_options(parser, cell=240)
    parser.add_argument(
        "--pairs",
        default="views",
        choices=("views", "class", "given"),
        help="of which pictures (default: views)",
    )
    add_number(parser, "--number", 4, "of pairs")
    add_number(parser, "--matches", 20, "of each pair")
    add(parser, "--seed", help="of the views")


def run(args: argparse.Namespace) -> None:
    """Draws the figure and writes it."""
    out = canvas.check_out(args.out)
    if args.number > MAX_NUMBER:
        raise UserError(
            f"--number={args.number} is more than {MAX_NUMBER}, for which there is room"
        )
    model, params = open_model(args)
    source = open_images(args, model.config.data.channels, labelled=args.pairs == "class")
    program = jax.jit(model.features)
    drawn = []
    for pair in _pairs(args, source, model):
        grids = [np.asarray(program(params, pixels[None]).patches)[0] for pixels in pair]
        tokens = (grid.reshape(-1, grid.shape[-1]) for grid in grids)
        matches = mutual_matches(*tokens, args.matches)
        drawn.append(draw_pair(pair, matches, [grid.shape[:2] for grid in grids], args.cell))
    if not drawn:
        raise UserError(f"--data={args.images[0]}: of no pair both images can be read")
    rows = [drawn[i : i + _COLUMNS] for i in range(0, len(drawn), _COLUMNS)]
    canvas.save(canvas.sheet(rows, cell=drawn[0].width), out)
    print(f"written to {out}")


def mutual_matches(first: np.ndarray, second: np.ndarray, number: int) -> Matches:
    """Returns the pairs of tokens that are each other's nearest by cosine, the best `number`.

    Args:
      first: [N, D] float.
      second: [M, D] float.
      number: at most so many.
    """
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (first, second)
    ]
    similarity = unit[0] @ unit[1].T  # [N, M]
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    mutual = np.flatnonzero(back[forth] == np.arange(len(first)))
    order = np.argsort(-similarity[mutual, forth[mutual]], kind="stable")[:number]
    chosen = mutual[order]
    return Matches(chosen, forth[chosen], similarity[chosen, forth[chosen]])


def draw_pair(
    pair: Pair, matches: Matches, grids: Sequence[tuple[int, int]], cell: int
) -> Image.Image:
    """Draws two pictures side by side, and lines between the middles of matching patches.

    `grids` are the rows and columns of patches of each.
    """
    panels = [canvas.photo(pixels, cell) for pixels in pair]
    gap = max(cell // 16, 4)
    size = 2 * cell + gap, max(panel.height for panel in panels)
    picture = Image.new("RGB", size, canvas.PAPER)
    points = []  # x and y of the middle of each match's patch, for each picture
    for side, (grid, panel, patches) in enumerate(zip(grids, panels, matches, strict=False)):
        left = side * (cell + gap) + (cell - panel.width) // 2
        top = (size[1] - panel.height) // 2
        picture.paste(panel, (left, top))
        rows, columns = np.divmod(patches, grid[1])
        middles = np.stack([columns, rows], axis=1) + 0.5
        points.append(middles * panel.width / grid[1] + (left, top))
    fine = picture.resize((size[0] * _FINE, size[1] * _FINE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(fine)
    width = round(max(cell / 120, 1.5) * _FINE)
    for start, end in zip(*(part[::-1] * _FINE for part in points), strict=True):  # best on top
        color = _color(start / _FINE - (cell / 2, size[1] / 2))
        draw.line([*start, *end], fill=canvas.INK, width=width + 2 * _FINE)
        draw.line([*start, *end], fill=color, width=width)
        for point in (start, end):
            draw.circle(tuple(point), 2 * width, fill=color, outline=canvas.INK, width=_FINE)
    return fine.resize(size, Image.Resampling.BOX)


def _color(direction: np.ndarray) -> tuple[int, ...]:
    """Returns a colour whose hue is a direction (x, y)."""
    turns = float(np.arctan2(direction[1], direction[0])) / (2 * np.pi)
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(turns % 1, 0.75, 1))


def _pairs(args: argparse.Namespace, source: Source, model: Model) -> Iterator[Pair]:
    """Yields what is to be matched, by --pairs."""
    if args.pairs == "views":
        make = _view_maker(source, model, args.size, args.seed)
        yield from (pair for _, pair in readable(source, spread(args.number, len(source)), make))
        return
    wanted = _of_classes(args, source) if args.pairs == "class" else _of_order(args, source)
    make = read_pixels(source, picture_size(args, model), model)
    for pair in wanted:
        found = dict(readable(source, pair, make))
        if len(found) == 2:
            yield tuple(found.values())


def _of_order(args: argparse.Namespace, source: Source) -> list[tuple[int, int]]:
    if len(source) < 2:
        raise UserError(f"--data={args.images[0]} is one image; --pairs=given needs two")
    return [(2 * i, 2 * i + 1) for i in range(min(args.number, len(source) // 2))]


def _of_classes(args: argparse.Namespace, source: Source) -> list[tuple[int, int]]:
    if source.labels is None:
        raise UserError(
            f"--data={args.images[0]} has no class folders, which --pairs=class needs; use "
            "--pairs=given for two images of your choice"
        )
    labels = np.asarray(source.labels)
    classes = [label for label in np.unique(labels) if (labels == label).sum() > 1]
    if not classes:
        raise UserError(f"--data={args.images[0]} has no class of two images or more")
    members = [np.flatnonzero(labels == classes[i]) for i in spread(args.number, len(classes))]
    return [(int(of_class[0]), int(of_class[len(of_class) // 2])) for of_class in members]


def _view_maker(
    source: Source, model: Model, longer: int | None, seed: int
) -> Callable[[int], Pair]:
    """Returns a function that cuts two global views of an image as training does."""
    data, masks = copy.deepcopy(model.config.data), model.config.masks
    size = view_size(model, longer or 2 * max(model.view.size))
    data.update(global_size=size, global_views=2, local_views=0)
    data.update(augment="host", resize="pillow")
    grid = geometry_of(model.config.model).grid(data.global_size)
    make_example = MakeExample(source.fetch, seed, data, masks, grid)

    def make(index: int) -> Pair:
        views = make_example.blank()
        make_example(views, source.locate(index)[0], epoch=0, index=index, masked=False)
        return tuple(views[0])

    return make
