"""Flags that programs share: each has one name, one meaning and one type, whoever takes it.

A program picks those that it takes by `add`, and says what is particular: another default, or what
the flag is of.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from ibot_jax.config.defaults import MAX_PIXELS
from ibot_jax.config.host import MOST_PER_CORE, num_cores
from ibot_jax.data.sources.splits import AUTO

# Default of --SPLIT-split, and what that is.
_SPLITS = {
    "train": ("train", "train, which is all where there are no splits"),
    "test": (AUTO, "the one called test, val or validation"),
}
# Flags that are keys of a config, too.
DECODING = ("range", "clip_percentiles", "window", "exif", "max_pixels")
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


def not_negative(text: str) -> float:
    """Returns a number from 0 on; for argparse."""
    return 0.0 if text in ("0", "0.0") else above_zero(text)


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


def feature_kind(text: str) -> str:
    """Returns a kind of features, of `FEATURES` or such as top10; for argparse."""
    number = text.removeprefix("top")
    if text not in FEATURES and not (text != number and number.isdecimal() and int(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FEATURES)}, top10, ...")
    return text


def sequence(item: Callable[[str], float], *, once: bool = True) -> Callable[[str], tuple]:
    """Returns a type for argparse: items between commas, each once, or as often as it is there."""

    def parse(text: str) -> tuple:
        items = tuple(item(part.strip()) for part in text.split(","))
        return tuple(dict.fromkeys(items)) if once else items

    return parse


def pair(text: str) -> tuple[float, float]:
    """Returns two numbers with a comma between, of which the second is above 0."""
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        first = second = math.nan
    if not (math.isfinite(first) and 0 < second < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers such as 1,99")
    return first, second


def workers(text: str) -> int:
    """Returns a number of worker processes that this host can bear, 0 for one a core."""
    number, cores = natural(text), num_cores()
    if number > cores * MOST_PER_CORE:
        raise argparse.ArgumentTypeError(
            f"{text} is more than {MOST_PER_CORE} for each of the {cores} cores there are"
        )
    return number


SHARED: dict[str, dict[str, Any]] = {
    # The model.
    "--from": dict(
        dest="source",
        required=True,
        metavar="PATH",
        help="a run's workdir, one of its checkpoints (WORKDIR/checkpoints/STEP), or an export",
    ),
    "--weights": dict(default="teacher", choices=("teacher", "student"), help="of what holds both"),
    "--step": dict(
        default="latest", metavar="N", help="of a run: a number, latest, or best by its accuracy"
    ),
    "--head": dict(
        action="store_true", help="the projection head, or of a fine-tuning the classifier, too"
    ),
    "--dtype": dict(default="float32", choices=("float32", "bfloat16"), help="of the computation"),
    # What is written.
    "--out": dict(required=True, metavar="PATH", help="what is written"),
    "--overwrite": dict(action="store_true", help="replace what --out names"),
    "--json": dict(metavar="FILE", help="also write the report as JSON"),
    "--license": dict(default="", metavar="SPDX", help="of the weights, for the model card"),
    "--report": dict(
        action="append",
        default=[],
        metavar="FILE",
        help="a TASK.json of python -m ibot_jax.evaluate, for the model card; may be repeated",
    ),
    # The images, and how they become pixels.
    "--data": dict(
        required=True,
        metavar="SOURCE",
        help="what data.source takes: folder:PATH (PATH/SPLIT/CLASS/*), tar:PATTERN, hf:NAME, ...",
    ),
    "--data-dir": dict(default="", metavar="DIR", help="as data.data_dir"),
    "--size": dict(
        nargs="+",
        type=positive,
        metavar="PIXELS",
        help="of the images: one side, or height and width (default: as in pre-training)",
    ),
    "--resize": dict(
        type=positive,
        metavar="PIXELS",
        help="shorter side before the central crop of --size (of one that is not square: in "
        "proportion to it, and its longer side; default: as k-NN in pre-training, in proportion to "
        "--size)",
    ),
    "--range": dict(
        type=above_zero,
        metavar="X",
        help="number that is white in images of more than 8 bits (else 65535)",
    ),
    "--clip-percentiles": dict(
        type=pair,
        metavar="LOW,HIGH",
        help="of each image and channel, the percentiles that become black and white",
    ),
    "--window": dict(
        type=pair,
        metavar="CENTRE,WIDTH",
        help="of the numbers of DICOM files that are shown (else as they say)",
    ),
    "--exif": dict(
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn images as their EXIF orientation says",
    ),
    "--max-pixels": dict(
        type=positive, metavar="N", help=f"larger images are not read (else {MAX_PIXELS:,})"
    ),
    # The computation.
    "--blocks": dict(default=1, type=positive, metavar="N", help="the last N blocks"),
    "--batch-size": dict(type=positive, metavar="N", help="images at a time, over all devices"),
    "--workers": dict(
        default=0,
        type=workers,
        metavar="N",
        help="processes that read images; 0 takes one for each core",
    ),
    "--seed": dict(default=0, type=natural, metavar="N", help="of everything"),
    "--cache": dict(
        default="evaluations/features",
        metavar="DIR",
        help="a local folder for features, by weights and data; nothing in it is ever stale, all "
        "of it may be removed",
    ),
    # The processes, as `ibot_jax.main` has them.
    "--coordinator_address": dict(metavar="HOST:PORT", help="of the first of several processes"),
    "--num_processes": dict(type=positive, metavar="N", help="how many there are"),
    "--process_id": dict(type=natural, metavar="N", help="the number of this one, from 0 on"),
}


def add(parser: argparse._ActionsContainer, *names: str, **particular: Any) -> None:
    """Adds shared flags; the help of each ends in its default, if it has one.

    Args:
      parser: to add to.
      *names: keys of `SHARED`.
      **particular: what replaces a setting of `SHARED`, such as `default` or `help`.
    """
    for name in names:
        settings = SHARED[name] | particular
        default = settings.get("default")
        if default not in (None, "", []) and "default:" not in settings["help"]:
            settings["help"] += f" (default: {default})"
        parser.add_argument(name, **settings)


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


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names the model, and how files become pixels for it."""
    group = parser.add_argument_group("model")
    add(group, "--from")
    add(
        group,
        "--weights",
        choices=("teacher", "student", "random"),
        help="of a run; random: the same model as before any training",
    )
    add(group, "--step", "--dtype")
    add_decoding_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names the model, where the outcome goes, and the processes."""
    add_weights_options(parser)
    group = parser.add_argument_group("output and processes")
    add(
        group,
        "--out",
        required=False,
        metavar="DIR",
        help="for TASK.json and tensorboard/ (default: evaluations/STEP in a run's workdir, "
        "evaluations/NAME beside an export)",
    )
    add(group, "--coordinator_address", "--num_processes", "--process_id")


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Adds how files become pixels, `DECODING`; `opening.open_model` tells the model."""
    group = parser.add_argument_group("files (default: as in pre-training)")
    add(group, "--range", "--clip-percentiles", "--window", "--exif", "--max-pixels")


def add_unlabelled_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names images of any source, and how they are cut; `unlabelled` opens them."""
    group = parser.add_argument_group("data")
    add(group, "--data", dest="images", help="FOLDER, or what data.source takes: tar:PATTERN, ...")
    group.add_argument(
        "--split", default="", help="of a source that has some (default: all of a folder, or train)"
    )
    add(group, "--size", "--resize")
    add(group, "--batch-size", default=64)
    add(group, "--workers")
    add_decoding_options(parser)


def add_data_options(
    parser: argparse.ArgumentParser,
    splits: Sequence[str] = ("train", "test"),
    batch_size: int = 256,
) -> None:
    """Adds what names labelled data and its splits, and how images are cut."""
    group = parser.add_argument_group("data")
    add(group, "--data", "--data-dir")
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
    add(group, "--size", "--resize")
    add(group, "--batch-size", default=batch_size)
    add(group, "--workers")


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """Adds what features are, and where they are kept."""
    group = parser.add_argument_group("features")
    group.add_argument(
        "--features",
        default="cls",
        type=feature_kind,
        metavar="KIND",
        help="cls: the class tokens of the last blocks, concatenated; mean: the means of their "
        "patch tokens; cls+mean: the class tokens and the mean of the last block's patch tokens; "
        "top10: the mean of the 10 patch tokens that are attended to most, or of any number; "
        "pixels: the images themselves, for comparison (default: cls)",
    )
    add(group, "--blocks", "--cache")
