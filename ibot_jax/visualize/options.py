"""Flags that the figures share, besides those of the evaluations, and the model they name."""

import argparse

import jax

from ibot_jax.cli.flags import add, add_number, positive, share
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.memory import check_images
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model


def add_image_options(
    parser: argparse.ArgumentParser,
    *,
    number: int | None = None,
    required: bool = True,
    size: str = "twice the size of training",
) -> None:
    """Adds what names the images, and how large the model sees them.

    Args:
      parser: to add to.
      number: of images that a figure shows unless told otherwise; None for a figure that shows no
        such number, and has no --number.
      required: whether the figure has no images of its own to fall back on.
      size: the size of images unless told otherwise, in words.
    """
    group = parser.add_argument_group("images")
    add(
        group,
        "--data",
        dest="images",
        required=required,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="image files, a folder of images or class folders, or a source: digits, folder:PATH, "
        "tfds:NAME" + ("" if required else " (default: the data of the run)"),
    )
    group.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="of a folder or source: a subfolder, or TFDS's split syntax (default: train, or the "
        "folder itself)",
    )
    add(group, "--data-dir")
    if number is not None:
        group.add_argument(
            "--number",
            type=positive,
            metavar="N",
            help="of images, spread evenly over all (default: all files that are named one by one, "
            f"{number} of others)",
        )
        group.set_defaults(default_number=number)
    add(
        group,
        "--size",
        nargs=None,
        help="of an image's longer side, to which it is resized for the model; the more, the more "
        f"patches (default: {size})",
    )


def add_output_options(parser: argparse.ArgumentParser, *, cell: int) -> None:
    """Adds where the figure goes, and how large it is drawn.

    Args:
      parser: to add to.
      cell: side of a panel unless told otherwise, pixels.
    """
    group = parser.add_argument_group("figure")
    add(group, "--out", metavar="FILE", help="a .png, .webp or .jpg file")
    add_number(group, "--cell", cell, "longer side of each panel of the figure", metavar="PIXELS")


def open_model(
    args: argparse.Namespace, mesh: jax.sharding.Mesh | None = None, *, head: bool = False
) -> tuple[Model, Params]:
    """Loads the model that the flags name.

    Args:
      args: the flags.
      mesh: the devices that are to hold the parameters; None for the first one.
      head: whether the projection head is needed, too.

    Raises:
      UserError: if there is no such model, or --size is too small for it.
    """
    mesh = mesh or make_mesh(jax.local_devices()[:1])
    model, params = opening.open_model(args, mesh, head=head)
    patch = model.geometry.stride
    if args.size is not None and args.size < patch:
        raise UserError(f"--size={args.size} is smaller than a patch of {patch} pixels")
    if args.size is not None:
        check_images(f"--size={args.size}", 1, (args.size, args.size), model)
    return model, params


def share_above_zero(text: str) -> float:
    """Returns a number above 0 and at most 1; for argparse."""
    number = share(text)
    if not number:
        raise argparse.ArgumentTypeError("0 is not above 0")
    return number
