"""What the shared flags name, opened: the model, the data, and how images are cut for it.

Every mistake is a UserError, on all processes, before anything slow begins.
"""

import argparse
import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ibot_jax.cli.flags import DECODING
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import (
    NoTestSplit,
    Source,
    open_source,
    open_test_split,
    splits_for_testing,
)
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.data.sources.same_images import require_same_images
from ibot_jax.data.sources.shared_images import Shared, find_shared
from ibot_jax.data.sources.splits import AUTO
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.memory import check_images
from ibot_jax.files.paths import warn_if_among_images
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.agreement import require_same, same_end, until_told
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import rows_of_process
from ibot_jax.parallel.shares import Rows
from ibot_jax.weights.hashes import backbone_hash
from ibot_jax.weights.load import load, untrained
from ibot_jax.weights.model import Model

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Views:
    """How images are cut for an evaluation, and how many go to the devices at a time.

    Attributes:
      view: how they are resized and cut.
      decoding: how files become pixels.
      rows: of a batch that this process makes.
      workers: processes that make the images, of each process; 0 takes one for each core.
    """

    view: CentralView
    decoding: Decoding
    rows: Rows
    workers: int = 0

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.decoding.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the views, pixels."""
        return self.view.size

    def cut(self) -> dict[str, Any]:
        """Returns what determines an image's pixels; JSON types."""
        return {"view": self.view.to_json(), "decoding": dataclasses.asdict(self.decoding)}

    def batches(self, source: Source | TfdsStream) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of every image of a source once; see `eval_batches`.

        Raises:
          UserError: if the processes have not the same images.
        """
        require_same_images(source)
        batches = eval_batches(source, self.view, self.rows, self.decoding, self.workers)
        return until_told(batches)

    def number(self, source: Source | TfdsStream) -> int:
        """Returns how many batches a source makes."""
        return -(-len(source) // self.rows.batch_size)


def open_model(
    args: argparse.Namespace, mesh: jax.sharding.Mesh, *, head: bool = False
) -> tuple[Model, Params]:
    """Loads the model that --from, --weights, --step and --dtype name.

    Its `config.data` says how files become pixels, as do --range, --exif and --max-pixels.
    A warning says where --out lies among images that are read, or were trained on.

    Returns:
      The model, and its parameters, on all devices.

    Raises:
      UserError: if there is no such model, or not the same on all processes.
    """
    with same_end():
        weights = "teacher" if args.weights == "random" else args.weights
        model, params = load(
            args.source, weights=weights, step=args.step, head=head, dtype=args.dtype
        )
        if args.weights == "random":
            model, params = untrained(model, head=head)
        elif args.weights != model.facts.get("weights", args.weights):
            raise UserError(
                f"--weights={args.weights} is not what {args.source} holds, which is the "
                f"{model.facts['weights']}; give --weights={model.facts['weights']}"
            )
        model.facts["sha256"] = backbone_hash(params)
    require_same(model.facts["sha256"], f"--from={args.source}")
    for key in DECODING:
        if getattr(args, key) is not None:
            model.config.data[key] = getattr(args, key)
    if args.out and is_first():
        warn_if_among_images(args.out, "--out", _image_sources(args, model.trained_on))
    return model, jax.device_put(jax.device_get(params), replicated(mesh))


def _image_sources(args: argparse.Namespace, trained_on: str) -> list[str]:
    """Returns what the flags name that holds images, and what the model was trained on."""
    named = [getattr(args, name, None) or [] for name in ("data", "images")]
    listed = ([text] if isinstance(text, str) else text for text in named)
    return [*itertools.chain(*listed), trained_on]


def open_views(args: argparse.Namespace, model: Model, mesh: jax.sharding.Mesh) -> Views:
    """Returns how images are cut: as for k-NN during the model's training, unless flags say else.

    In `args`, --size and --resize become what they are.

    Raises:
      UserError: if the flags make no sense for the model or the devices.
    """
    view, patch = model.view, model.geometry.stride
    size = tuple(args.size or view.size)
    if len(size) > 2:
        raise UserError(f"--size={' '.join(map(str, size))} is one side, or height and width")
    size = (size[0], size[-1])
    if min(size) < patch:
        raise UserError(f"--size={size[0]} {size[1]} is less than a patch of {patch} pixels")
    rows = open_rows(args, mesh)
    view = view.of_size(size)
    if args.resize:
        view = _resized(view, args.resize)
    args.size, longest = list(size), max(view.resize)
    args.resize = longest if view == _resized(view, longest) else None  # it is as the model's
    check_images(
        f"--size={size[0]} {size[1]} with --resize={longest} --batch-size={args.batch_size}",
        len(rows),
        size,
        model,
        resize=longest,
    )
    return Views(view, Decoding.of(model.config.data), rows, args.workers)


def _resized(view: CentralView, resize: int) -> CentralView:
    """Returns the view that --resize says."""
    proportional = view_of_run(view.size, resize).resize
    return dataclasses.replace(view, resize=proportional, fit="cover")


def open_rows(args: argparse.Namespace, mesh: jax.sharding.Mesh) -> Rows:
    """Returns which rows of a batch of --batch-size images this process makes.

    Raises:
      UserError: if not all devices would get the same number of images.
    """
    if args.batch_size % mesh.size:
        raise UserError(f"--batch-size={args.batch_size} is no multiple of the {mesh.size} devices")
    return rows_of_process(mesh, args.batch_size)


def open_squares(
    args: argparse.Namespace, model: Model, mesh: jax.sharding.Mesh, largest: int
) -> Rows:
    """Returns which rows of a batch of squares of --size pixels this process makes.

    In `args`, --size becomes what it is: by default the largest of whole patches up to `largest`.

    Raises:
      UserError: if the squares are no whole patches, there is no memory for a batch of them, or not
        all devices would get the same number.
    """
    args.size = args.size or model.geometry.whole((largest, largest))[0]
    size = args.size, args.size
    if model.geometry.missing(size) != (0, 0):
        raise UserError(
            f"--size={args.size} is no multiple of the patch size, {model.geometry.stride}"
        )
    rows = open_rows(args, mesh)
    check_images(f"--size={args.size} --batch-size={args.batch_size}", len(rows), size, model)
    return rows


def open_split(args: argparse.Namespace, model: Model, name: str) -> Source | TfdsStream:
    """Opens the "train" or the "test" split of --data; of a split "auto", args gets the name.

    Raises:
      UserError: if there is none.
    """
    split = getattr(args, f"{name}_split")
    with same_end(), _named(args, name):
        if split == AUTO:
            found = splits_for_testing(args.data, data_dir=args.data_dir)
            if not found:
                raise NoTestSplit(f"{args.data} has no split called test, val or validation")
            split = found[0]
            setattr(args, f"{name}_split", split)
        source = open_source(args.data, split, **_split_options(args, model, name))
    require_same_images(source)
    return source


def open_labelled(
    args: argparse.Namespace, model: Model
) -> tuple[Source | TfdsStream, Source | TfdsStream, Shared]:
    """Opens the train and the test split of --data, which must be labelled alike.

    Of a --test-split "auto", args gets the name. A warning tells that the splits share images.

    Returns:
      Both, and which images they share.

    Raises:
      UserError: if they cannot be opened, have no labels or not the same classes, or no image
        can be read.
    """
    train = open_split(args, model, "train")
    require_labels(args, "train", train)
    with same_end(), _named(args, "test"):
        test, args.test_split = open_test_split(
            args.data, args.test_split, train, **_split_options(args, model, "test")
        )
    with same_end():
        for name, source in (("train", train), ("test", test)):
            split = f"--{name}-split={getattr(args, f'{name}_split')}"
            require_readable(source, Decoding.of(model.config.data), purpose=split)
        shared = find_shared(train, test)
    require_same_images(test)
    if not getattr(args, "leave_one_out", False):
        names = f"--test-split={args.test_split}", f"those of --train-split={args.train_split}"
        also = ", or --leave-one-out" if "leave_one_out" in args else ""
        warn_of_shared(shared, *names, f"choose another split{also}")
    return train, test, shared


def warn_of_shared(shared: Shared, test: str, train: str, remedy: str) -> None:
    """Warns where test images are training images, too.

    Args:
      shared: of the training and the test images.
      test: what the test images are called.
      train: what the training images are called.
      remedy: what would do.
    """
    if shared.count and is_first():
        _log.warning(
            "%s of the %s images of %s are among %s, too: what is measured of them is no "
            "measure of unknown images; %s",
            *(f"{shared.count:,}", f"{len(shared.second):,}", test, train, remedy),
        )


def _split_options(args: argparse.Namespace, model: Model, name: str) -> dict[str, Any]:
    return dict(
        data_dir=args.data_dir,
        max_per_class=getattr(args, f"max_{name}_per_class"),
        channels=model.config.data.channels,
        key=f"--{name}-split",
    )


@contextlib.contextmanager
def _named(args: argparse.Namespace, name: str) -> Iterator[None]:
    """Adds to errors which data was asked for, and what names another split."""
    try:
        yield
    except NoTestSplit as error:
        raise UserError(f"--data={args.data}: {error}; name one by --{name}-split") from error
    except UserError as error:
        raise UserError(f"--data={args.data}: {error}") from error


def require_labels(args: argparse.Namespace, name: str, source: Source | TfdsStream) -> None:
    """Raises a UserError if a split has no labels."""
    if source.num_classes is None:
        raise UserError(
            f"--data={args.data} has no labels in --{name}-split={getattr(args, f'{name}_split')}; "
            "this task needs a folder for each class, or labelled TFDS data"
        )


def settings(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Returns what a task was run with, for its report: all flags, and what the model knows."""
    # The step that was asked for may be "latest", the model knows which that is, if any.
    left_out = {"source", "step", "cache", "out", "workers"}
    left_out |= {"coordinator_address", "num_processes", "process_id"}
    flags = {key: value for key, value in vars(args).items() if key not in left_out}
    return {"from": args.source, **flags, **model.facts}
