"""Compares every kernel for this device with XLA's definition, in values and gradients.

The first thing to do on a new kind of chip. Shapes are those of the published models' global and
local views, alone and packed as the step has them. On a CPU the kernels for TPUs are interpreted,
at small shapes; what is for other devices is named, and not checked.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ibot_jax.cli import exits, flags
from ibot_jax.config.sizes import VIT_SIZES
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.kernels.check import Verdict, compare, dtype_of, shape_of
from ibot_jax.kernels.choice import IMPLEMENTATIONS, Kernels
from ibot_jax.kernels.color_table import COLUMNS
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.kernels.devices import Device, device_at_hand
from ibot_jax.kernels.specs import Spec
from ibot_jax.models.vit import ViT

_SIZES = ("small", "base", "large")
_REFUSED = "REFUSED"
_INTERPRETED = Device("tpu", "TPU v5 lite", partitioned=False)  # the one that is pretended on a CPU
_DTYPES = ("bfloat16", "float32")
_BLUR = 2.0  # pixels, the published views' largest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument(
        "--sizes",
        type=flags.sequence(str),
        default=_SIZES,
        help=f"of the published ViTs, {', '.join(VIT_SIZES)} (small,base,large)",
    )
    flags.add(parser, "--batch-size", default=64, help="global views at a time")
    flags.add(parser, "--json", help="also write the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Compares, prints the table, and returns the exit status."""
    for size in args.sizes:
        if size not in VIT_SIZES:
            raise UserError(f"--sizes={size} is none of {', '.join(VIT_SIZES)}")
    at_hand = device_at_hand()
    if at_hand.platform == "cpu":
        device, uses = _INTERPRETED, _small_uses(_INTERPRETED)
        print(f"{at_hand.kind}: kernels for TPUs are interpreted here, at small shapes")
    else:
        device = dataclasses.replace(at_hand, partitioned=False)
        uses = _published_uses(device, args.sizes, args.batch_size)
        print(f"{device.kind}, JAX {jax.__version__}")
    rows = []
    print(_line("kernel", "shape", "dtype", "values", "gradients", "verdict"))
    for row in _rows(device, uses):
        rows.append(row)
        print(_line(*row.values()), flush=True)
    if args.json:
        write_json(absolute_path(args.json), rows)
    wrong = [row for row in rows if row["verdict"].startswith(_REFUSED)]
    print(f"{len(wrong)} refused; deviations are over the largest number, of what is allowed")
    return exits.FAILED if wrong else exits.COMPLETE


def _rows(device: Device, uses: list[tuple[str, Spec]]) -> Iterator[dict[str, str]]:
    """Yields the lines of the table: what is compared, then what is not."""
    for name, spec in uses:
        yield _compared(compare(name, spec, device))
    for platform, names in IMPLEMENTATIONS.items():
        for name in names:
            if platform != device.platform:
                yield _row(name, verdict=f"not checked: for a {platform.upper()}")
                continue
            taken = {dtype_of(spec) for used, spec in uses if used == name}
            for dtype in _DTYPES:
                if dtype not in taken and name != "tpu.colors":  # of bytes
                    yield _row(name, dtype=dtype, verdict="not taken in this dtype: XLA computes")


def _published_uses(device: Device, sizes: tuple[str, ...], batch: int) -> list[tuple[str, Spec]]:
    """Returns what a step on published views takes of each kernel."""
    uses = []
    for size, dtype in itertools.product(sizes, _DTYPES):
        kwargs = dict(width=VIT_SIZES[size]["width"], heads=VIT_SIZES[size]["heads"], dtype=dtype)
        # Global and local views, and those of a part at a higher resolution.
        for number, side in ((batch, 224), (4 * batch, 96), (max(batch // 8, 1), 512)):
            shape = (number, side, side, 3)
            uses += _uses(device, shape, patch_size=16, grid=(14, 14), **kwargs)
    return list(dict.fromkeys(uses))


def _small_uses(device: Device) -> list[tuple[str, Spec]]:
    kwargs = dict(width=128, heads=2, patch_size=8, grid=(4, 4))
    shapes = (10, 32, 32, 3), (1, 136, 136, 3)
    uses = [_uses(device, *of, **kwargs) for of in itertools.product(shapes, _DTYPES)]
    return list(dict.fromkeys(itertools.chain(*uses)))


def _uses(
    device: Device, shape: tuple[int, ...], dtype: str, **sizes: Any
) -> list[tuple[str, Spec]]:
    """Returns the uses of kernels in a block of a ViT on views [B, H, W, C], and on their colours.

    Each kernel is asked alone: attention also computes where its whole branch is left to XLA.
    """
    uses = []
    plain = ViT(depth=1, mlp_ratio=4.0, layer_scale=0.0, dtype=jnp.dtype(dtype), **sizes)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    gains = jax.ShapeDtypeStruct((shape[0], 1, 2), jnp.float32)
    variables = jax.eval_shape(plain.init, jax.random.key(0), images)
    views = jax.ShapeDtypeStruct(shape, jnp.uint8)
    colors = jax.ShapeDtypeStruct((shape[0], len(COLUMNS)), jnp.float32)
    for name in IMPLEMENTATIONS[device.platform]:
        kernels = Kernels(("packing", name), device, uses)
        change = functools.partial(apply_colors, max_blur_radius=_BLUR, kernels=kernels)
        with contextlib.suppress(Exception):  # which the comparison meets, too
            jax.eval_shape(plain.clone(kernels=kernels).apply, variables, images, None, gains)
            jax.eval_shape(change, views, colors)
    return uses


def _compared(found: Verdict) -> dict[str, str]:
    def deviation(value, allowed):
        return "" if value is None else f"{value:.1e} of {allowed:.1e}"

    return _row(
        found.name,
        shape="x".join(map(str, shape_of(found.spec))),
        dtype=dtype_of(found.spec),
        values=deviation(found.values, found.allowed[0]),
        gradients=deviation(found.gradients, found.allowed[1]),
        verdict=f"{_REFUSED}: {found.problem}" if found.problem else "agrees",
    )


def _row(kernel: str, **columns: str) -> dict[str, str]:
    names = ("shape", "dtype", "values", "gradients", "verdict")
    return {"kernel": kernel} | dict.fromkeys(names, "") | columns


def _line(kernel: str, shape: str, dtype: str, values: str, gradients: str, verdict: str) -> str:
    return f"{kernel:21}{shape:16}{dtype:10}{values:20}{gradients:20}{verdict}".rstrip()
