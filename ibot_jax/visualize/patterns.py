"""What prototypes mean: the patches, or the images, that they are surest of.

A prototype's confidence in a token is its share in the softmax over all prototypes, without the
center. The images pass once, and each prototype keeps the --top tokens of highest confidence, one
an image. Shown are the --prototypes with the highest mean of these, that mean above; patches are
framed, amid their surroundings. --tokens=class shows whole images, by the prototypes of the class
token. This is the paper's pattern layout. The model needs its head: exports are made with --head.
"""

import argparse
import dataclasses
import math

import jax
import numpy as np
from PIL import Image, ImageDraw

from ibot_jax.cli.flags import above_zero, add_number, add_weights_options, positive
from ibot_jax.data.make.examples import MakeCentralView
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import Source, Subset
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import rows_of_process
from ibot_jax.screen import canvas
from ibot_jax.screen.progress import progress
from ibot_jax.visualize import prototypes
from ibot_jax.visualize.options import add_image_options, add_output_options, open_model
from ibot_jax.visualize.pictures import open_images, spread, view_size
from ibot_jax.weights.model import Model

_COLUMNS = 4
_FRAME = (255, 214, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this figure."""
    add_weights_options(parser)
    add_image_options(parser, size="the size of training")
    add_output_options(parser, cell=240)
    parser.add_argument(
        "--number",
        type=positive,
        metavar="N",
        help="look at so many images, spread evenly over all (default: at all)",
    )
    parser.add_argument(
        "--tokens",
        default="patch",
        choices=("patch", "class"),
        help="which tokens, and so which prototypes (default: patch)",
    )
    add_number(parser, "--prototypes", 12, "how many to show", metavar="M")
    add_number(parser, "--top", 16, "tokens of each", metavar="K")
    add_number(parser, "--context", 5, "side of a patch's surroundings, in patches", metavar="C")
    parser.add_argument(
        "--temperature",
        type=above_zero,
        metavar="T",
        help="of the softmax (default: the teacher's at the end of the run)",
    )


def run(args: argparse.Namespace) -> None:
    """Draws the figure and writes it."""
    out = canvas.check_out(args.out)
    mesh = make_mesh()
    model, params = open_model(args, mesh, head=True)
    source = open_images(args, model.config.data.channels)
    if args.number is not None:
        source = Subset(source, spread(args.number, len(source)))
    layout = Layout(args.tokens, args.prototypes, args.top, args.context, args.cell)
    picture = draw(
        model, params, source, mesh, layout, size=args.size, temperature=args.temperature
    )
    canvas.save(picture, out)
    print(f"written to {out}")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is shown, and how.

    Attributes:
      kind: "patch" or "class": which tokens, and so which prototypes.
      prototypes: how many.
      top: tokens of each.
      context: side of a patch's surroundings, in patches.
      cell: side of the panel of a prototype, pixels.
    """

    kind: str
    prototypes: int
    top: int
    context: int
    cell: int


def draw(
    model: Model,
    params: Params,
    source: Source,
    mesh: jax.sharding.Mesh,
    layout: Layout,
    *,
    size: int | None = None,
    temperature: float | None = None,
) -> Image.Image:
    """Draws the figure: a panel for each prototype, with its tokens in rows.

    Args:
      model: with a head.
      params: backbone's and head's, on the mesh.
      source: of the images.
      mesh: the devices.
      layout: what is shown.
      size: longer side of the images for the model; None for that of training.
      temperature: of the softmax; None for the teacher's at the end of the run.

    Raises:
      UserError: if no image can be read.
    """
    kind = layout.kind
    size = view_size(model, size or max(model.view.size))
    grid = model.geometry.grid(size)
    batch = prototypes.batch_size(model, kind, grid[0] * grid[1], mesh.size)
    cut = dataclasses.replace(model.view, size=size, resize=size, fit="cover")
    views = Views(cut, Decoding.of(model.config.data), rows_of_process(mesh, batch))
    best = prototypes.find_best(
        model,
        params,
        progress(views.batches(source), views.number(source), "images"),
        mesh,
        kind=kind,
        k=layout.top,
        temperature=temperature or teacher_temperature(model, kind),
    )
    if best.confidence.max() < 0:
        raise UserError(f"not one of the images of {source.name} can be read")
    make_view = MakeCentralView(source.fetch, views.view, views.decoding)

    def thumbnail(image: int, patch: int, side: int) -> Image.Image:
        (pixels,) = view = make_view.blank()
        make_view(view, source.locate(image)[0])
        if kind == "class":
            return canvas.photo(pixels, side)
        box = model.geometry.box(*divmod(patch, grid[1]))
        return frame_patch(pixels, box, layout.context, side)

    columns = math.ceil(math.sqrt(layout.top))
    side = (layout.cell - 2 * (columns - 1)) // columns
    panels = []
    for number in best.surest(layout.prototypes):
        entries = zip(*(array[number] for array in best), strict=True)
        tokens = [
            thumbnail(int(image), int(patch), side)
            for confidence, image, patch in entries
            if confidence >= 0
        ]
        caption = f"prototype {number}: {best.confidence[number].mean():.2f}"
        panels.append(canvas.captioned(montage(tokens, columns, side), caption, layout.cell))
    rows = [panels[i : i + _COLUMNS] for i in range(0, len(panels), _COLUMNS)]
    return canvas.sheet(rows, cell=layout.cell)


def teacher_temperature(model: Model, kind: str) -> float:
    """Returns the teacher's temperature at the end of the run; of an export, the published one."""
    loss = model.config.loss
    return loss.teacher_temp if kind == "class" else loss.teacher_patch_temp


def frame_patch(
    pixels: np.ndarray, box: tuple[int, int, int, int], context: int, side: int
) -> Image.Image:
    """Returns a patch amid its surroundings, framed.

    Args:
      pixels: [H, W, C] uint8.
      box: of the patch, (top, left, bottom, right).
      context: side of the surroundings, in patches; at the border they lie off centre, and they are
        never larger than the image.
      side: of the result, pixels.
    """
    top, left, bottom, right = box
    window = min(context * (bottom - top), *pixels.shape[:2])
    shown_top, shown_left = (
        int(np.clip((start + end - window) // 2, 0, length - window))
        for start, end, length in zip(box[:2], box[2:], pixels.shape[:2], strict=True)
    )
    shown = pixels[shown_top : shown_top + window, shown_left : shown_left + window]
    picture = canvas.photo(shown, side)
    scale = side / window
    corners = [
        round((place - start) * scale)
        for places in ((left, top), (right, bottom))
        for place, start in zip(places, (shown_left, shown_top), strict=True)
    ]
    corners[2:] = [corner - 1 for corner in corners[2:]]  # Pillow's rectangles include the end
    ImageDraw.Draw(picture).rectangle(corners, outline=_FRAME, width=max(side // 40, 1))
    return picture


def montage(pictures: list[Image.Image], columns: int, side: int) -> Image.Image:
    """Arranges pictures of up to `side` pixels in rows, two pixels apart."""
    step = side + 2
    size = columns * step - 2, max(math.ceil(len(pictures) / columns), 1) * step - 2
    whole = Image.new("RGB", size, canvas.PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        whole.paste(picture, (column * step, row * step))
    return whole
