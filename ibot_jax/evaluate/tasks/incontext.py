"""Segmentation in context: the classes of pixels by their patches' nearest labelled ones, mIoU.

What it measures: whether patches that look alike to the model show the same. Nothing is trained.
Patches of the training images are remembered with the shares of the classes of their pixels; a
patch of a test image takes the mean of its --k nearest by cosine, with weights
exp(cosine / --temperature). Balazevic et al. (Hummingbird, arXiv 2306.01667), with the numbers of
open-hummingbird-eval, by which Franca and others report it: images are squares of 512 pixels (504
with patches of 14); training images are cut at random and changed in colour, twice each; of each
as many patches are remembered as make --memory-size in all, those of rare classes first. mIoU is of
the squares' pixels.

Data: as of `segmentation`. --layout=ade20k: DATA/images/{training,validation}/*.jpg and
DATA/annotations/.../*.png. --layout=voc: DATA/JPEGImages/*.jpg, DATA/SegmentationClass/*.png and
DATA/ImageSets/Segmentation/{train,val}.txt; voc-aug: the augmented ones.

    python -m ibot_jax.evaluate incontext --from=runs/mine --data=DATA --layout=voc
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import spread
from ibot_jax.evaluate.benchmarks.in_context_data import Reader
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, Split, open_splits
from ibot_jax.evaluate.benchmarks.segmentation_pictures import Pictures
from ibot_jax.evaluate.common.memory import check_spread
from ibot_jax.evaluate.common.opening import open_model, open_squares, settings
from ibot_jax.evaluate.common.report import Report, determining
from ibot_jax.evaluate.features.patch_maps import make_patch_fn
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes import patch_bank
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.patch_bank import PatchBank, PatchFn
from ibot_jax.evaluate.probes.pixel_classes import decide
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import until_told
from ibot_jax.parallel.layouts import batch_sharding, replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress
from ibot_jax.weights.model import Model

_SIZE = 512  # at the most, unless told otherwise
_OF_TESTING = ("k", "temperature", "pictures")  # flags on which no memory depends
_KEPT_EVERY = 10  # batches of test images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument(
        "--layout", required=True, choices=("ade20k", "voc", "voc-aug"), help="see above"
    )
    flags.add(
        group,
        "--size",
        nargs=None,
        help="side of the squares of images (default: the largest of whole patches up to 512)",
    )
    flags.add(group, "--batch-size", default=16)
    group.add_argument(
        "--max-images",
        default=0,
        type=flags.natural,
        metavar="N",
        help="N images of each split, evenly spaced, for a first look (default: all)",
    )
    flags.add_number(
        group,
        "--pictures",
        0,
        "of the first N test images are written, OUT/incontext/*.png",
        kind=flags.natural,
    )
    group = parser.add_argument_group("memory")
    flags.add_number(group, "--memory-size", 10_240_000, "patches that are remembered")
    flags.add_number(group, "--epochs", 2, "crops of each training image")
    flags.add_number(group, "--k", 30, "neighbours that vote")
    flags.add_number(
        group, "--temperature", 0.02, "of the votes", kind=flags.above_zero, metavar="T"
    )
    flags.add(group, "--seed", help="of the crops and of the patches that are remembered")


def run(args: argparse.Namespace) -> Report:
    """Remembers patches of the training images, and measures what they say of the others.

    Raises:
      UserError: for what the user can mend.
    """
    train, test, shared = open_splits(args)
    train, test = (
        dataclasses.replace(
            split,
            images=spread(split.images, args.max_images),
            annotations=spread(split.annotations, args.max_images),
        )
        for split in (train, test)
    )
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    rows = open_squares(args, model, mesh, _SIZE)
    reader = Reader(args.size, Decoding.of(model.config.data), rows)
    patch_fn = make_patch_fn(model)
    about = settings(args, model)
    bank = _remember(args, about, model, patch_fn, params, reader, train, mesh)
    patches = _require_voters(args, bank, train)
    counts = _measure(args, about, patch_fn, params, bank, reader, test, mesh)
    metrics = mean_iou.scores(counts)
    row = {"patches": patches, "images": len(test), **metrics}
    return Report("incontext", about, metrics, [row], shared_images=shared)


def _remember(
    args: argparse.Namespace,
    about: Mapping[str, Any],
    model: Model,
    patch_fn: PatchFn,
    params,
    reader: Reader,
    train: Split,
    mesh: jax.sharding.Mesh,
) -> PatchBank:
    images = args.epochs * len(train)
    rows, columns = model.geometry.grid((args.size, args.size))
    per_image = min(args.memory_size // images, rows * columns)
    if not per_image:
        raise UserError(
            f"--memory-size={args.memory_size} is less than a patch of each of {images} images, "
            f"{len(train)} to train with by --epochs={args.epochs}"
        )
    number = reader.number(images)
    features, dtype = model.geometry.width, model.config.dtype
    taken = patch_bank.bank_bytes(
        number, args.batch_size, per_image, features, train.num_classes, dtype
    )
    check_spread(f"--memory-size={args.memory_size}", taken, mesh)
    of_memory = determining(about, but=_OF_TESTING)

    def crops(done: int) -> Iterator[dict[str, np.ndarray]]:
        batches = until_told(reader.crops(train, args.epochs, args.seed, done))
        for batch in progress(batches, number, "memory", start=done):
            yield _labelled(batch, args.layout)

    return patch_bank.fill(
        patch_fn,
        params,
        crops,
        number,
        jax.ShapeDtypeStruct(
            (args.batch_size, args.size, args.size, reader.decoding.channels), np.uint8
        ),
        lambda step: Kept(f"{args.out}/memory", f"{step:05}", of_memory),
        per_image=per_image,
        num_classes=train.num_classes,
        seed=args.seed,
        dtype=dtype,
        mesh=mesh,
    )


def _labelled(batch: dict[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
    """Returns a batch with the void of VOC as background, which it is in the memory."""
    if layout == "ade20k":
        return batch
    return batch | {"labels": np.where(batch["labels"] == IGNORED, 0, batch["labels"])}


def _require_voters(args: argparse.Namespace, bank: PatchBank, train: Split) -> int:
    """Returns how many patches vote; raises a UserError if they are fewer than --k."""
    patches = int(bank.counts.any(axis=-1).sum())
    if not patches:
        raise UserError(f"{train.annotations[0].parent} has no annotated pixel")
    if patches < args.k:
        raise UserError(f"--k={args.k} is more than the {patches} patches that are remembered")
    return patches


def _measure(
    args: argparse.Namespace,
    about: Mapping[str, Any],
    patch_fn: PatchFn,
    params,
    bank: PatchBank,
    reader: Reader,
    test: Split,
    mesh: jax.sharding.Mesh,
) -> np.ndarray:
    """Returns counts of the pixels of all images, or of those that are left and all before.

    See `mean_iou.count`.
    """

    def segment(params, bank: PatchBank, batch: dict[str, jax.Array]):
        scores = patch_bank.votes(
            bank,
            patch_fn(params, batch["images"]),
            k=args.k,
            temperature=args.temperature,
            mesh=mesh,
        )
        scores = jax.lax.with_sharding_constraint(scores, batch_sharding(mesh))
        return decide(scores, args.size), batch["labels"]

    program = jax.jit(segment, out_shardings=replicated(mesh))
    kept, done = Kept(args.out, "incontext", determining(about)), 0
    total = np.zeros((test.num_classes, test.num_classes), np.int64)
    if arrays := kept.read():
        try:
            done, total = int(arrays["batches"]), total + arrays["counts"]
        except (KeyError, ValueError) as error:
            raise kept.damaged(error) from error
    folder = absolute_path(args.out) / "incontext"
    pictures = Pictures(folder, args.pictures, test, reader.decoding)
    number = reader.number(len(test))
    batches = progress(until_told(reader.whole(test, done)), number, "images", start=done)
    for step, batch in enumerate(batches, done):
        found, truth = map(np.asarray, program(params, bank, to_global(batch, mesh)))
        total += mean_iou.count(found, truth, test.num_classes)
        first = step * len(found)
        for index in range(first, min(first + len(found), args.pictures, len(test))):
            pictures.write(index, found[index - first])
        if (step + 1) % _KEPT_EVERY == 0 or step + 1 == number:
            kept.write({"batches": step + 1, "counts": total})
    if not total.any():
        raise UserError(f"{test.annotations[0].parent} has no annotated pixel")
    return total
