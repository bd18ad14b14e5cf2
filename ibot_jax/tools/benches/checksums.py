"""Measures what the checksums of a checkpoint cost: beside a save, and before it is read.

Files of the sizes that a checkpoint of the config has are made of random bytes. They are in the
host's memory when they are timed, as those of a save are; from a disk or a network, reading them
comes on top.
"""

import argparse
import contextlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.plan import make_plan
from ibot_jax.data.sources.opening import IMAGENET_EXAMPLES
from ibot_jax.files.checksums import find_damage, write_checksums
from ibot_jax.methods.state import teacher_params
from ibot_jax.runs.training import make_init

_CHUNK = 1 << 24
_FILES = 4  # of a part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    parser.add_argument("--folder", default=".", help="in which the files are made (.)")


def run(args: argparse.Namespace) -> int:
    """Makes the files, times the checks, and prints what they take."""
    config = given_config(args)
    plan = make_plan(config, IMAGENET_EXAMPLES)
    state = jax.eval_shape(make_init(config, plan), jax.random.key(0))
    teacher = _bytes(teacher_params(state))
    sizes = {
        "student": _bytes(state.params),
        "teacher": teacher,
        "optimizer": _bytes(state.opt_state) - teacher,
    }
    print(f"{sum(sizes.values()) / 1e9:.2f} GB, the teacher {teacher / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = epath.Path(name)
        _make(pathlib.Path(name), sizes)
        with _timed("beside a save, in the background"):
            write_checksums(folder, 1)
        with _timed("before a run resumes"):
            damage = find_damage(folder, 1, list(sizes))
        with _timed("before the teacher is read"):
            damage = damage or find_damage(folder, 1, ["teacher"])
    return int(damage is not None)


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _make(folder: pathlib.Path, sizes: dict[str, int]) -> None:
    chunk = np.random.default_rng(0).bytes(_CHUNK)
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps({"item_handlers": {}}))
    for part, size in sizes.items():
        (folder / part).mkdir()
        (folder / part / "_METADATA").write_text("{}")
        for number in range(_FILES):
            with (folder / part / str(number)).open("wb") as file:
                for start in range(0, size // _FILES, _CHUNK):
                    file.write(chunk[: size // _FILES - start])


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<33}{wall:.2f} s on {os.cpu_count()} cores, {cpu:.2f} s of one core")
