"""Measures what it takes to open a source of many images: seconds, and bytes of memory an image.

Empty files are made in as many folders as there are shards, a list of their paths, and shards of
empty images; all are removed at the end. Seconds are those of the first time, when an index of
shards is made, and of the second, by what is kept. Memory is what Python and NumPy hold while the
source is open, and at most while it is being opened.
"""

import argparse
import gc
import io
import os
import pathlib
import tarfile
import tempfile
import time
import tracemalloc
from typing import Any

from ibot_jax.cli import exits, flags
from ibot_jax.data.sources.opening import open_source
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("--number", type=flags.positive, default=100_000, help="of images (100000)")
    parser.add_argument("--shards", type=flags.positive, default=1000, help="or folders (1000)")
    parser.add_argument("--folder", default=None, help="in which the files are made")
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Makes the files, opens each source, and prints what it took."""
    each = max(args.number // args.shards, 1)
    report = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = pathlib.Path(folder)
        for kind, make in (("folder", _folders), ("list", _list), ("tar", _tars)):
            found = report[kind] = _measured(make(root, args.shards, each), folder)
            print(
                f"{kind:<8}{found['images']:,} images: {found['first_seconds']:.1f} s, then "
                f"{found['seconds']:.1f} s; {found['bytes']:.0f} bytes an image, "
                f"{found['peak_bytes']:.0f} while it is opened"
            )
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def _measured(spec: str, data_dir: str) -> dict[str, Any]:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        images = len(open_source(spec, "train", data_dir=data_dir))
        seconds.append(time.perf_counter() - start)
    gc.collect()
    tracemalloc.start()
    source = open_source(spec, "train", data_dir=data_dir)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del source  # up to here its memory counts
    return {
        "images": images,
        "first_seconds": seconds[0],
        "seconds": seconds[1],
        "bytes": kept / images,
        "peak_bytes": peak / images,
    }


def _names(each: int) -> list[str]:
    return [f"{number:08d}.jpg" for number in range(each)]


def _folders(root: pathlib.Path, shards: int, each: int) -> str:
    for number in range(shards):
        folder = root / "images" / f"class{number:05d}"
        folder.mkdir(parents=True)
        for name in _names(each):
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    return f"folder:{root}/images"


def _list(root: pathlib.Path, shards: int, each: int) -> str:
    with (root / "images.csv").open("w") as file:
        for number in range(shards):
            folder = f"class{number:05d}"
            file.writelines(f"images/{folder}/{name},{folder}\n" for name in _names(each))
    return f"list:{root}/images.csv"


def _tars(root: pathlib.Path, shards: int, each: int) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _names(each):
            tar.addfile(tarfile.TarInfo(name))
    first = root / "00000.tar"
    first.write_bytes(buffer.getvalue())
    for number in range(1, shards):
        os.link(first, root / f"{number:05d}.tar")
    return f"tar:{root}/*.tar"
