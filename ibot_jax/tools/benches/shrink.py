"""Measures what decoding at a reduced scale costs and saves: sharpness of views, images a second.

The views of each image are made with each of --margins (`data.shrink_margin`), one after the other
and from the same draws. Their sharpness is compared with that of the same views cut from the whole
image, where an image was decoded smaller:

  gradient  mean absolute difference of neighbouring pixels
  top band  amplitude at spatial frequencies from 0.4 to 0.5 cycles a pixel, the finest there are

Speed is that of one core which does nothing but make the views: CPU time of this thread.
"""

import argparse
import copy
import time

import numpy as np

from ibot_jax.cli import flags
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.section import Section
from ibot_jax.data.make.examples import MakeExample
from ibot_jax.data.sources.opening import Source, open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.models.architectures import geometry_of
from ibot_jax.runs.check import check_config

_TOP_BAND = (0.4, 0.5)  # cycles a pixel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    flags.add(parser, "--data", required=False, help="such as folder:PATH; else the config's")
    parser.add_argument("--number", type=flags.positive, default=250, help="of images (250)")
    parser.add_argument(
        "--margins", default="1,2,4", metavar="X,...", help="of data.shrink_margin (1,2,4)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = given_config(args)
    config.data.update(source=args.data or config.data.source, augment="device")
    try:
        margins = (0.0, *map(float, args.margins.split(",")))
    except ValueError:
        raise UserError(f"--margins={args.margins} are no numbers such as 1,2,4") from None
    for config.data.shrink_margin in margins:
        check_config(config)
    data = config.data
    source = open_source(data.source, data.split, data_dir=data.data_dir, channels=data.channels)
    if isinstance(source, TfdsStream):
        raise UserError(f"{source.name} has no random access; give a folder")
    grid = geometry_of(config.model).grid(config.data.global_size)
    for row in measure(source, config.seed, data, config.masks, grid, margins, args.number):
        print(row)
    return 0


def measure(
    source: Source,
    seed: int,
    data: Section,
    masks: Section,
    grid: tuple[int, int],
    margins: tuple[float, ...],
    number: int,
) -> list[str]:
    """Returns lines of a table, one for each margin; the first is the one to compare with.

    Args:
      source: of the images.
      seed: of the views, which are made as `MakeExample` does.
      data: likewise; its margin is replaced.
      masks: likewise.
      grid: likewise.
      margins: of `data.shrink_margin`.
      number: of images.
    """
    makers = []
    for margin in margins:
        changed = copy.deepcopy(data)
        changed.shrink_margin = margin
        makers.append(MakeExample(source.fetch, seed, changed, masks, grid))
    seconds, smaller = np.zeros(len(makers)), np.zeros(len(makers), int)
    found = [[] for _ in makers]  # pairs (this, whole) of gradient and top band, by view
    number = min(number, len(source))
    for index in range(number):
        located, _ = source.locate(index)
        made = {}
        for place in np.roll(range(len(makers)), index):  # the first one finds nothing in caches
            out = makers[place].blank()
            start = time.thread_time()
            makers[place](out, located, 0, index, True)
            seconds[place] += time.thread_time() - start
            made[place] = [*out[0], *out[1]]
        for place in range(len(makers)):
            pairs = list(zip(made[place], made[0], strict=True))
            if any(not np.array_equal(*pair) for pair in pairs):
                smaller[place] += 1
                found[place] += [[sharpness(view) for view in pair] for pair in pairs]
    lines = ["margin  decoded smaller  gradient  top band  images/s and core"]
    for place, margin in enumerate(margins):
        ratios = (1.0, 1.0)
        if found[place]:
            this, whole = np.mean(found[place], axis=0)
            ratios = this / whole
        lines.append(
            f"{margin:6.3g}  {smaller[place] / number:15.1%}  {ratios[0]:8.3f}  "
            f"{ratios[1]:8.3f}  {number / seconds[place]:17.1f}"
        )
    return lines


def sharpness(view: np.ndarray) -> tuple[float, float]:
    """Returns gradient and amplitude of the top band of a view, [H, W, C] uint8."""
    grey = view.mean(axis=-1)
    gradient = np.mean([np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)])
    window = np.outer(*(np.hanning(side) for side in grey.shape))  # edges are no detail
    spectrum = np.abs(np.fft.rfft2((grey - grey.mean()) * window))
    rows, columns = np.fft.fftfreq(grey.shape[0])[:, None], np.fft.rfftfreq(grey.shape[1])
    radius = np.hypot(rows, columns)
    band = (radius >= _TOP_BAND[0]) & (radius <= _TOP_BAND[1])
    return float(gradient), float(np.sqrt(np.square(spectrum[band]).mean()))
