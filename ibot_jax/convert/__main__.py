"""Moves weights between this project, the original's PyTorch checkpoints, timm and Hugging Face.

    python -m ibot_jax.convert --from=IN --out=OUT --to=FORMAT [...]

IN is found out: a run's workdir, one of its checkpoints or an export; a checkpoint of the original
or of DINO (.pth); a file (.pth, .safetensors) or a folder of a ViT or Swin by the names of timm,
DINOv2, Swin's authors or transformers.

FORMAT
    orbax, npz, safetensors   what ibot_jax.export writes and ibot_jax.load reads
    checkpoint                student, teacher and centers, for --config.init_from
    pth                       PyTorch's format and the original's names; no PyTorch is needed
    timm, hf                  folders that timm and transformers read
    stablehlo                 a program from images to features, or, with --head, to the classes of
                              a fine-tuned model; IN may also be a report of an evaluation that was
                              trained for pixels (segmentation, upernet, depth)

Nothing in IN is executed. Every tensor is accounted for: what is missing or left over is named, and
is an error unless --allow says that it may be; what computes tokens is never left over.
"""

from ibot_jax.parallel import signals
from ibot_jax.screen.progress import busy

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import functools
import os
import re
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

import jax
from etils import epath

from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.flags import add, positive
from ibot_jax.config import host
from ibot_jax.errors import UserError
from ibot_jax.evaluate.reopening import is_report, reopen
from ibot_jax.files.paths import absolute_path, warn_if_among_images, writing
from ibot_jax.models.architectures import in_words
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights import write
from ibot_jax.weights.card import make_card, read_report, require_same_weights
from ibot_jax.weights.description import described_config, described_view
from ibot_jax.weights.export import own_card
from ibot_jax.weights.foreign import write as foreign
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.read import Found, read_model
from ibot_jax.weights.foreign.stablehlo import write_program, write_stablehlo
from ibot_jax.weights.formats import import_safetensors

_FOREIGN = {
    "checkpoint": foreign.write_checkpoint,
    "pth": foreign.write_pth,
    "timm": foreign.write_timm,
    "hf": foreign.write_hf,
    "stablehlo": write_stablehlo,
}
_WITHOUT_HEAD = ("timm", "hf")
_AT_ONCE = ("orbax", "checkpoint", "stablehlo")  # are written of all tensors, not one by one
_FOLDERS = write.FOLDERS | foreign.FOLDERS


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    jax.config.update("jax_platforms", "cpu")  # the accelerator may be a run's
    return exit_status(lambda: _convert(_parse(argv)))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m ibot_jax.convert", description=__doc__)
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)  # IN OUT, as before
    add(parser, "--from", required=False, metavar="IN", help="what holds a model, or a report")
    add(parser, "--out", required=False, help="a file, or a folder (orbax, checkpoint, timm, hf)")
    parser.add_argument("--to", required=True, choices=(*write.OWN_FORMATS, *_FOREIGN))
    add(parser, "--weights", "--step", "--head")
    parser.add_argument(
        "--heads", type=positive, metavar="N", help="of attention, where IN has none told"
    )
    parser.add_argument(
        "--norm-eps", type=float, metavar="X", help="LayerNorm's epsilon, where IN has none told"
    )
    for name, words in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{name}",
            type=_numbers,
            metavar="X,Y,Z",
            help=f"{words} of each channel, of pixels in [0, 1] (if nothing tells: ImageNet's)",
        )
    parser.add_argument(
        "--grid",
        type=_grid,
        metavar="HxW",
        help="rows and columns of output patches of the images that it is trained for, where IN "
        "does not tell them",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="of names of tensors that may be left over (what reads the tokens: classifiers, "
        "poolers, decoders), or missing (biases and gains); may be repeated",
    )
    add(parser, "--overwrite", "--license", "--report")
    args = parser.parse_intermixed_args(argv)
    places = iter(args.places)
    args.source, args.out = (given or next(places, None) for given in (args.source, args.out))
    if not args.source or not args.out:
        parser.error("the following arguments are required: --from, --out")
    if surplus := list(places):
        parser.error(f"unrecognized arguments: {' '.join(surplus)}")
    return args


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers such as 0.5,0.5,0.5"
        ) from None


def _grid(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no grid of patches such as 14x14, rows and columns"
        )
    return int(match.group(1)), int(match.group(2))


def _convert(args: argparse.Namespace) -> None:
    to, target = args.to, write.target_of(args.out, args.to)
    if args.head and to in _WITHOUT_HEAD:
        raise UserError(f"--to={to} has no place for the projection head; leave --head out")
    if to in ("safetensors", "timm", "hf"):
        import_safetensors()  # its absence is told before anything is read
    write.check_target(target, folder_of=_FOLDERS.get(to), overwrite=args.overwrite)
    reports = [read_report(absolute_path(path)) for path in args.report]
    whole = to == "checkpoint"
    known = Known(args.heads, args.norm_eps, args.mean, args.std, args.grid, tuple(args.allow))
    if is_report(args.source):
        _convert_reported(args, target, known, reports)
        return
    with busy("reading weights"):
        found = read_model(
            args.source,
            weights=args.weights,
            step=args.step,
            head=args.head or whole,
            known=known,
            whole=whole,
            classifier=to == "stablehlo",
        )
    if args.head and to == "stablehlo" and "classifier" not in found.description:
        raise UserError(f"--to={to} has no place for the projection head; leave --head out")
    _say(args.source, found)
    if to in _AT_ONCE:
        _require_memory(to, found)
    trained_on = found.description.get("run", {}).get("data.source", "")
    warn_if_among_images(args.out, "--out", [trained_on])
    for params in found.params.values():
        require_same_weights(reports, params)
    with writing("--out", args.out), busy("writing weights"):
        remarks = _write(to, target, found, args.license, reports)
    for remark in remarks:
        print(remark)
    card = target / "README.md" if to in _FOLDERS else f"{target}.md"
    print(f"{write.written_words(target, args.out, to)}, {card}")


def _convert_reported(
    args: argparse.Namespace, target: epath.Path, known: Known, reports: list[dict[str, Any]]
) -> None:
    """Writes what the evaluation of a report has trained as a program."""
    if args.to != "stablehlo":
        raise UserError(f"--to={args.to} has no place for a report's head; --to=stablehlo has")
    if known != Known():
        raise UserError(
            f"{args.source} says all of its model; leave out --heads, --norm-eps, --grid, --mean, "
            "--std, --allow"
        )
    with busy("reading weights"):
        trained = reopen(args.source, make_mesh(), portable=True)
    pixels, channels = trained.pixels, trained.model.config.data.channels
    params = {"backbone": jax.device_get(trained.params["backbone"])}
    require_same_weights(reports, params)
    height, width = pixels.size
    card = functools.partial(
        make_card,
        trained.model.description(head=False),
        title=target.name,
        license_id=args.license,
        reports=[trained.report, *reports],
    )
    takes = f"{height} x {width} pixels, {pixels.takes}"
    with writing("--out", args.out), busy("writing weights"):
        write_program(
            target,
            pixels.program,
            pixels.size,
            channels,
            params,
            card,
            "print({name: x.shape for name, x in found.items()})",
            remarks=[
                f"this is what the backbone was trained for, whose weights are hashed below; the "
                f"program takes {takes}, and gives {pixels.gives}"
            ],
        )
    print(f"{args.source}: {trained.report['task']}, {trained.model}")
    print(f"takes {takes}; gives {pixels.gives}")
    print(f"{write.written_words(target, args.out, args.to)}, {target}.md")


def _require_memory(to: str, found: Found) -> None:
    needed, free = sum(x.nbytes for x in jax.tree.leaves(found.params)), host.host_memory()
    if needed > free:
        raise UserError(
            f"--to={to} holds all tensors in memory, {host.in_words(needed)}, of which "
            f"{host.in_words(free)} are free; npz, safetensors, pth, timm and hf are written one "
            "tensor after the other"
        )


def _write(
    to: str, target: epath.Path, found: Found, license_id: str, reports: list[dict[str, Any]]
) -> Sequence[str]:
    """Writes the model; returns remarks on what becomes of images elsewhere."""
    if to in write.OWN_FORMATS:
        (params,) = found.params.values()
        text = own_card(target.name, to, params, found.description, license_id, reports)
        write.OWN_FORMATS[to](target, params, found.description, text)
        return ()
    card = functools.partial(
        make_card, found.description, title=target.name, license_id=license_id, reports=reports
    )
    return _FOREIGN[to](target, found, card) or ()


def _say(source: str, found: Found) -> None:
    """Prints what was found and taken."""
    height, width = found.description["global_size"]
    print(f"{source}: {found.kind}")
    model = described_config(found.description, source).model
    mean = ", ".join(map(str, found.description["mean"]))
    print(f"{in_words(model)}, {height}x{width} pixels, mean {mean}")
    print(f"images: {described_view(found.description, source)}")
    for who, params in found.params.items():
        leaves = jax.tree.leaves(params)
        print(
            f"{who}'s {' and '.join(params)}: {len(leaves)} tensors, "
            f"{sum(x.size for x in leaves):,} parameters"
        )
    for note in found.notes:
        print(note)


if __name__ == "__main__":
    leave(main())
