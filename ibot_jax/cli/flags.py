"""Flags that the tasks share, and types of their values."""

import argparse
from collections.abc import Callable, Sequence

from ibot_jax.config.defaults import MAX_PIXELS
from ibot_jax.config.host import MOST_PER_CORE, num_cores
from ibot_jax.data.sources.splits import AUTO

# Default of --SPLIT-split, and what that is.
_SPLITS = {
    "train": ("train", "train, which is all where there are no splits"),
    "test": (AUTO, "the one called test, val or validation"),
}
DECODING = ("range", "exif", "max_pixels")  # flags that are keys of a config, too
_LARGEST = 10**9
_SMALLEST = 1e-12
FEATURES = ("cls", "mean", "cls+mean", "pixels")


def positive(text: str) -> int:
    """Returns an integer above 0; for argparse."""
    number = natural(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def natural(text: str) -> int:
    """Returns an integer from 0 on; for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    if int(text) > _LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is above {_LARGEST}, the most that makes sense")
    return int(text)


def above_zero(text: str) -> float:
    """Returns a number above 0 that is neither 0 nor infinite in float32; for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not _SMALLEST <= number <= 1 / _SMALLEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number from {_SMALLEST:g} to {1 / _SMALLEST:g}"
        )
    return number


def share(text: str) -> float:
    """Returns a number from 0 to 1; for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return number


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """Returns a type for argparse: one of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def sequence(item: Callable[[str], float]) -> Callable[[str], tuple]:
    """Returns a type for argparse: items between commas, each once."""

    def parse(text: str) -> tuple:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return parse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names the model, where the outcome goes, and the processes."""
    add_weights_options(parser)
    group = parser.add_argument_group("output and processes")
    group.add_argument(
        "--out",
        metavar="DIR",
        help="for TASK.json and tensorboard/ (default: evaluations/STEP in a run's workdir, "
        "evaluations/NAME beside an export)",
    )
    group.add_argument("--coordinator_address", help="HOST:PORT of the first of several processes")
    group.add_argument("--num_processes", type=positive, help="how many there are")
    group.add_argument("--process_id", type=int, help="the number of this one, from 0 on")


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names the model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--from",
        required=True,
        dest="source",
        metavar="PATH",
        help="a run's workdir, one of its checkpoints (WORKDIR/checkpoints/STEP), or an export",
    )
    group.add_argument(
        "--weights",
        default="teacher",
        choices=("teacher", "student", "random"),
        help="of a run; random: the same model as before any training (default: teacher)",
    )
    group.add_argument(
        "--step", default="latest", help="of a run: a number, latest, or best by k-NN (latest)"
    )
    group.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of the computation (default: float32)",
    )
    add_decoding_options(parser)


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Adds how files become pixels, `DECODING`; `opening.open_model` tells the model."""
    group = parser.add_argument_group("files (default: as in pre-training)")
    group.add_argument(
        "--range",
        type=above_zero,
        metavar="X",
        help="number that is white in greys of more than 8 bits (else 65535)",
    )
    group.add_argument(
        "--exif",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn images as their EXIF orientation says",
    )
    group.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help=f"larger images are not read (else {MAX_PIXELS:,})",
    )


def add_data_options(
    parser: argparse.ArgumentParser,
    splits: Sequence[str] = ("train", "test"),
    batch_size: int = 256,
) -> None:
    """Adds what names labelled data and its splits, and how images are cut."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="digits, folder:PATH (PATH/SPLIT/CLASS/*), or tfds:NAME",
    )
    group.add_argument("--data-dir", default="", metavar="DIR", help="where TFDS keeps its data")
    for split in splits:
        group.add_argument(
            f"--{split}-split",
            default=_SPLITS[split][0],
            metavar="NAME",
            help=f"a subfolder, or TFDS's split syntax (default: {_SPLITS[split][1]})",
        )
    for split in splits:
        group.add_argument(
            f"--max-{split}-per-class",
            default=0,
            type=natural,
            metavar="N",
            help="keep the first N images of each class, by name (default: all)",
        )
    group.add_argument(
        "--size",
        nargs="+",
        type=positive,
        metavar="PIXELS",
        help="of the images: one side, or height and width (default: as in pre-training)",
    )
    group.add_argument(
        "--resize",
        type=positive,
        metavar="PIXELS",
        help="shorter side before the central crop of --size (of one that is not square: in "
        "proportion to it, and its longer side; default: as k-NN in pre-training, in proportion to "
        "--size)",
    )
    add_batch_size(group, batch_size)
    add_workers(group)


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """Adds what features are, and where they are kept."""
    group = parser.add_argument_group("features")
    group.add_argument(
        "--features",
        default="cls",
        choices=FEATURES,
        help="cls: the class tokens of the last blocks, concatenated; mean: the means of their "
        "patch tokens; cls+mean: the class tokens and the mean of the last block's patch tokens; "
        "pixels: the images themselves, for comparison (default: cls)",
    )
    add_number(group, "--blocks", 1, "the last N blocks")
    add_cache_option(group)


def add_cache_option(parser: argparse._ActionsContainer) -> None:
    """Adds where features are kept."""
    parser.add_argument(
        "--cache",
        default="evaluations/features",
        metavar="DIR",
        help="a local folder for features, by weights and data; nothing in it is ever stale, all "
        "of it may be removed (default: evaluations/features)",
    )


def add_batch_size(parser: argparse._ActionsContainer, default: int) -> None:
    """Adds --batch-size, which `opening.check_batch_size` checks."""
    add_number(parser, "--batch-size", default, "images at a time, over all devices")


def add_workers(parser: argparse._ActionsContainer) -> None:
    """Adds --workers, who make the batches."""
    text = "processes that read images; 0 takes one for each core"
    add_number(parser, "--workers", 0, text, kind=_workers)


def _workers(text: str) -> int:
    number, cores = natural(text), num_cores()
    if number > cores * MOST_PER_CORE:
        raise argparse.ArgumentTypeError(
            f"{text} is more than {MOST_PER_CORE} for each of the {cores} cores there are"
        )
    return number


def add_number(
    parser: argparse._ActionsContainer,
    flag: str,
    default: float,
    text: str,
    *,
    kind: Callable[[str], float] = positive,
    metavar: str = "N",
) -> None:
    """Adds a flag that takes a number.

    Args:
      parser: to add to.
      flag: its name.
      default: its value unless told otherwise.
      text: its help, to which the default is added.
      kind: of number, one of the functions above.
      metavar: what its value is called.
    """
    parser.add_argument(
        flag,
        default=default,
        type=kind,
        metavar=metavar,
        help=f"{text} (default: {default})",
    )
