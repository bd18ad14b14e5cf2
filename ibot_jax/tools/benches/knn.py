"""Measures what exact k-NN needs at any size: memory by the compiler, time of one chunk of queries.

Only the training features are made, in the devices' memory, and only one chunk of queries is timed;
the rest is counting. `--compile-only` makes nothing at all.
"""

import argparse
import functools
import math
import time

import jax
import jax.numpy as jnp

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.measures import neighbours
from ibot_jax.parallel.layouts import batch_sharding, num_shards, replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import busy

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    for name, default, what in (
        ("train", 1_281_167, "training features"),
        ("test", 50_000, "queries"),
        ("width", 384, "entries of a feature"),
        ("classes", 1000, "classes"),
    ):
        parser.add_argument(
            f"--{name}", type=flags.positive, default=default, help=f"{what} (%(default)s)"
        )
    parser.add_argument(
        "--k", type=flags.sequence(flags.positive), default=(10, 20), help="(10,20)"
    )
    parser.add_argument("--compile-only", action="store_true", help="tell memory, but time nothing")


def run(args: argparse.Namespace) -> int:
    """Compiles the search, times one chunk, and prints what it takes."""
    if max(args.k) > args.train:
        raise UserError(f"--k={max(args.k)} is more than the --train={args.train} features")
    mesh = make_mesh()
    rows, chunk = neighbours.sizes(args.train, max(args.k), args.classes, mesh)
    chunk = min(chunk, args.test)
    rank = neighbours.make_rank(mesh, args.k, (0.07,), args.classes)
    total = rows * num_shards(mesh)
    spread, whole = batch_sharding(mesh), replicated(mesh)
    shapes = (
        jax.ShapeDtypeStruct((total, args.width), jnp.float32, sharding=spread),
        jax.ShapeDtypeStruct((total,), jnp.int32, sharding=spread),
        jax.ShapeDtypeStruct((chunk, args.width), jnp.float32, sharding=whole),
    )
    with busy("compiling"):
        compiled = rank.lower(*shapes).compile()
    memory = compiled.memory_analysis()
    chunks = math.ceil(args.test / chunk)
    print(f"{mesh.size} x {mesh.devices.flat[0].device_kind}")
    print(f"training features of a device   {rows:,}: {rows * args.width * 4 / _GIB:.2f} GiB")
    print(f"queries at a time               {chunk:,}: {chunks:,} chunks")
    print(f"memory of a device, by compiler {_bytes(memory) / _GIB:.2f} GiB")
    if args.compile_only:
        return 0
    seconds = _time(compiled, shapes, args.classes)
    print(f"a chunk                         {seconds:.2f} s")
    print(f"all chunks, if all take as long {seconds * chunks:.0f} s")
    return 0


def _bytes(memory) -> int:
    """Returns what a device holds while the program runs."""
    parts = ("argument", "output", "temp")
    return sum(getattr(memory, f"{part}_size_in_bytes") for part in parts)


def _time(compiled, shapes, num_classes: int) -> float:
    """Returns the seconds of one chunk, the second that runs, on random features of length 1."""
    bank, labels, queries = shapes

    @functools.partial(jax.jit, out_shardings=tuple(shape.sharding for shape in shapes))
    def draw(rng):
        keys = jax.random.split(rng, 3)
        return (
            neighbours.unit(jax.random.normal(keys[0], bank.shape)),
            jax.random.randint(keys[1], labels.shape, 0, num_classes),
            jax.random.normal(keys[2], queries.shape),
        )

    arrays = draw(jax.random.key(0))
    jax.block_until_ready(compiled(*arrays))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    return time.perf_counter() - start
