"""Exports the trained backbone, for programs that know nothing of ibot_jax.

    python -m ibot_jax.export --workdir=DIR --to=orbax|npz|safetensors --out=PATH
        [--step=N|latest|best] [--weights=teacher|student] [--head] [--overwrite]

    orbax        PATH/params, an Orbax checkpoint of {"backbone": ..., "head": ...}, and, written
                 last, PATH/config.json
    npz          arrays by "backbone/blocks_0/attn/qkv/kernel", and the config as text, "config"
    safetensors  tensors by "backbone.blocks_0.attn.qkv.kernel", the config in the metadata

The config is what the model needs besides its parameters, as JSON: see `describe`. All is written
under a temporary name first; what has its own name is whole. Exit status: 0, or 2 for a mistake.
"""

import argparse
import contextlib
import io
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

import ibot_jax
from ibot_jax.command_line import OneLineParser
from ibot_jax.errors import UserError
from ibot_jax.optimizer import Params
from ibot_jax.saved import find_checkpoint, read_params
from ibot_jax.workdir import absolute_path, read_config

_PARAMS, _CONFIG = "params", "config.json"  # what an Orbax export consists of


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax's errors are raised, too
    jax.config.update("jax_platforms", "cpu")  # the accelerator may be the run's
    try:
        args = _parse(argv)
        print(
            export(
                args.workdir,
                args.out,
                to=args.to,
                step=args.step,
                weights=args.weights,
                head=args.head,
                overwrite=args.overwrite,
            )
        )
    except (UserError, OSError) as error:  # an OSError names what cannot be read
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m ibot_jax.export", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a run")
    parser.add_argument("--to", required=True, choices=_WRITERS, help="format")
    parser.add_argument("--out", required=True, metavar="PATH", help="a folder (orbax) or a file")
    parser.add_argument(
        "--step", default="latest", metavar="N", help="or latest (default), or best by k-NN"
    )
    parser.add_argument("--weights", default="teacher", choices=("teacher", "student"))
    parser.add_argument("--head", action="store_true", help="also export the projection head")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser.parse_args(argv)


def export(
    workdir: str,
    out: str,
    *,
    to: str,
    step: str = "latest",
    weights: str = "teacher",
    head: bool = False,
    overwrite: bool = False,
) -> str:
    """Exports parameters of a run, finished or not.

    Args:
      workdir: of the run; like `out`, a local path or one that etils.epath takes (gs://...).
      out: what to write, a folder for "orbax" and else a file; missing parents are made.
      to: "orbax", "npz" or "safetensors".
      step: in digits, "latest", or "best" by k-NN.
      weights: "teacher" or "student".
      head: whether the projection head comes too.
      overwrite: replace an earlier export of the same kind.

    Returns:
      What was exported, in words.

    Raises:
      UserError: if there is nothing to export, or `out` exists or cannot be written.
    """
    source, target = absolute_path(workdir), absolute_path(out)
    if to == "safetensors":
        _import_safetensors()  # its absence is told before anything is read
    _check_target(target, is_folder=to == "orbax", overwrite=overwrite)
    recorded = read_config(source)
    if recorded is None:
        what = "config.json in it" if source.is_dir() else "such folder"
        raise UserError(f"--workdir={workdir} holds no run: there is no {what}; give that of a run")
    number, top1 = find_checkpoint(source, step)
    config = describe(recorded, head=head)
    config |= {
        "weights": weights,
        "step": number,
        "knn_top1": top1,
        "ibot_jax": ibot_jax.__version__,
    }
    parts = ("backbone", "head") if head else ("backbone",)
    params = read_params(source, number, weights, parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[to](target, params, json.dumps(config, indent=2) + "\n")
    except Exception as error:  # Orbax passes on whatever its threads meet
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--out={out} cannot be written ({reason}); choose another path") from error

    tensors = jax.tree.leaves(params)
    accuracy = "" if top1 is None else f", k-NN {top1:.1f} %"
    return (
        f"{weights}'s {' and '.join(parts)}, step {number:,}{accuracy}: {len(tensors)} tensors, "
        f"{sum(x.size for x in tensors):,} parameters, {sum(x.nbytes for x in tensors):,} bytes\n"
        f"{target} ({to})"
    )


def describe(recorded: dict[str, Any], *, head: bool) -> dict[str, Any]:
    """Returns what a model needs besides its parameters.

    Args:
      recorded: a run's config, {"model.width": 384, ...}.
      head: whether to describe the head, too.

    Returns:
      `model` and by option `head`, those sections of the config; `global_size` [height, width] and
      `channels` of the images it was trained for; their `patch_grid` [rows, columns]; `resize`, the
      shorter side before a central crop to that size in evaluations; `mean` and `std` of each
      channel, for pixels in [0, 1]; `dtype` of the computation.

    Raises:
      UserError: if the config lacks one of these.
    """
    config = flax.traverse_util.unflatten_dict(recorded, sep=".")
    try:
        patch_size, global_size = config["model"]["patch_size"], config["data"]["global_size"]
        return {
            **{section: config[section] for section in (("model", "head") if head else ("model",))},
            **{key: config["data"][key] for key in ("global_size", "channels", "mean", "std")},
            "patch_grid": [side // patch_size for side in global_size],
            "resize": config["knn"]["resize"],
            "dtype": config["dtype"],
        }
    except KeyError as error:
        raise UserError(f"the run's config.json lacks {error}; restore the file") from None


def _check_target(target: epath.Path, *, is_folder: bool, overwrite: bool) -> None:
    """Makes sure that nothing but an earlier export of the same kind is replaced, and if asked."""
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"--out={target} exists; choose another path, or replace it by --overwrite")
    if target.is_dir() != is_folder:
        needed = "a folder" if is_folder else "a file"
        raise UserError(f"--out={target} exists and is not {needed}; choose another path")
    if is_folder and not {path.name for path in target.iterdir()} <= {_PARAMS, _CONFIG}:
        raise UserError(f"--out={target} holds more than an earlier export; choose another path")


def _write_orbax(target: epath.Path, params: Params, config: str) -> None:
    with _renamed(target) as temporary, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(temporary / _PARAMS, params)
        checkpointer.wait_until_finished()
    # Last, and on its own: a bucket renames a folder file by file.
    _write_bytes(target / _CONFIG, config.encode())


def _write_npz(target: epath.Path, params: Params, config: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, config=config, **flax.traverse_util.flatten_dict(params, sep="/"))
    _write_bytes(target, buffer.getvalue())


def _write_safetensors(target: epath.Path, params: Params, config: str) -> None:
    tensors = flax.traverse_util.flatten_dict(params, sep=".")
    _write_bytes(target, _import_safetensors()(tensors, metadata={"config": config}))


_WRITERS: dict[str, Callable[[epath.Path, Params, str], None]] = {
    "orbax": _write_orbax,
    "npz": _write_npz,
    "safetensors": _write_safetensors,
}


def _import_safetensors() -> Callable[..., bytes]:
    try:
        from safetensors.numpy import save
    except ImportError:
        raise UserError(
            "--to=safetensors needs a package that is not here: pip install ibot-jax[export]"
        ) from None
    return save


def _write_bytes(target: epath.Path, content: bytes) -> None:
    with _renamed(target) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _renamed(target: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path beside `target`, which takes its place if all goes well."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        if target.is_dir():
            target.rmtree()
        temporary.replace(target)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: epath.Path, *, quiet_s: float = 1.0, limit_s: float = 10.0) -> None:
    """Removes what a failed export left, and raises nothing: the failure is what is to be told.

    Orbax reports the first failure while other threads still write and make their folders anew, so
    the path has to stay away for a moment.
    """
    end = time.monotonic() + limit_s
    gone_since = time.monotonic()
    while (now := time.monotonic()) < end and now - gone_since < quiet_s:
        if path.exists():
            with contextlib.suppress(OSError):
                path.rmtree() if path.is_dir() else path.unlink()
            gone_since = time.monotonic()
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
