"""Lists the windows of slides that hold tissue, as images to train on.

    python -m ibot_jax.tools.windows SLIDE ... --out=windows.csv
        [--size=512] [--stride=SIZE] [--level=0] [--tissue=0.5]

The windows of a slide, SIZE x SIZE pixels of a level and STEP apart, are those of a grid from its
upper left corner on. One is listed if its share of tissue is at least --tissue: of pixels of the
slide's thumbnail whose colours differ by more than a tenth of white. `list:windows.csv` is then a
source of images (docs/data.md, "Parts of files"); a column `label` may be added to it.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_bytes
from ibot_jax.files.paths import absolute_path
from ibot_jax.screen.progress import progress

if TYPE_CHECKING:
    import openslide

_THUMBNAIL = 2048  # pixels of its longer side, at most
_COLOURED = 25  # levels between the brightest and the darkest colour of a pixel of tissue
_COLUMNS = ("path", "x", "y", "w", "h", "level")  # of a list, see docs/data.md


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(_parse(sys.argv[1:] if argv is None else argv)))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m ibot_jax.tools.windows", description=__doc__.splitlines()[0]
    )
    parser.add_argument("slides", nargs="+", metavar="SLIDE", help="a file that OpenSlide reads")
    flags.add(parser, "--out", metavar="FILE", help="the list, a CSV")
    flags.add(parser, "--size", nargs=None, default=512, help="side of a window, in pixels")
    parser.add_argument("--stride", type=flags.positive, help="between windows, pixels (SIZE)")
    parser.add_argument("--level", type=int, default=0, help="of the slide, 0 is the finest (0)")
    parser.add_argument(
        "--tissue", type=float, default=0.5, help="least share of a window, 0 takes all (0.5)"
    )
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    if not 0 <= args.tissue <= 1:
        raise UserError(f"--tissue={args.tissue} is no share from 0 to 1")
    out = absolute_path(args.out)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    listed = 0
    for path in progress(args.slides, len(args.slides), "slides"):
        name = os.path.relpath(path, out.parent)  # lists name files from where they lie
        found = list(
            windows(_open(path), args.size, args.stride or args.size, args.level, args.tissue)
        )
        writer.writerows((name, x, y, args.size, args.size, args.level) for x, y in found)
        listed += len(found)
        print(f"{path}: {len(found)} windows")
    if not listed:
        raise UserError(
            f"--tissue={args.tissue}, --size={args.size} and --level={args.level} leave no window; "
            "take a smaller one"
        )
    write_bytes(out, text.getvalue().encode())
    print(f"{out}: {listed} windows; train with --config.data.source=list:{args.out}")
    return exits.COMPLETE


def _open(path: str) -> "openslide.OpenSlide":
    try:
        import openslide
    except ImportError as error:
        raise UserError(
            f"{path}: a slide needs {error.name}: pip install 'ibot-jax[slides]'"
        ) from error
    try:
        return openslide.OpenSlide(path)
    except (OSError, openslide.OpenSlideError) as error:
        raise UserError(f"{path} is no slide that OpenSlide reads ({error})") from error


def windows(
    slide: "openslide.OpenSlide", size: int, stride: int, level: int, tissue: float
) -> Iterator[tuple[int, int]]:
    """Yields the windows of a slide, row by row: the left and top of each, in pixels of level 0.

    Args:
      slide: whose windows they are.
      size: of a window, in pixels of its level.
      stride: between two of them, likewise.
      level: of the slide.
      tissue: least share of tissue, from 0 to 1.

    Raises:
      UserError: if there is no such level.
    """
    if not 0 <= level < slide.level_count:
        raise UserError(f"--level={level} is none of the slide's {slide.level_count} levels")
    scale = slide.level_downsamples[level]
    width, height = slide.dimensions
    found = _tissue(slide)
    for top in _places(height, size, stride, scale):
        rows = _part(found.shape[0], height, top, size * scale)
        for left in _places(width, size, stride, scale):
            columns = _part(found.shape[1], width, left, size * scale)
            if found[rows, columns].mean() >= tissue:
                yield left, top


def _places(side: int, size: int, stride: int, scale: float) -> list[int]:
    """Returns where windows begin that end within a side of level 0."""
    number = int((side - (size - 1) * scale - 1) // (stride * scale)) + 1
    return [int(place * stride * scale) for place in range(max(number, 0))]


def _part(pixels: int, side: int, first: int, length: float) -> slice:
    """Returns which pixels of the thumbnail a window covers, one at least."""
    start = min(int(first * pixels / side), pixels - 1)
    return slice(start, max(round((first + length) * pixels / side), start + 1))


def _tissue(slide: "openslide.OpenSlide") -> np.ndarray:
    """Returns [h, w] bool, where a thumbnail of the slide is neither white nor grey."""
    colors = np.asarray(slide.get_thumbnail((_THUMBNAIL, _THUMBNAIL)))[..., :3].astype(int)
    return colors.max(axis=2) - colors.min(axis=2) > _COLOURED


if __name__ == "__main__":
    leave(main())
