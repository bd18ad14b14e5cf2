"""Measures the input pipeline on the same images in every kind of source.

The encoded images of --data are written as a folder, a list, tars, a zip, Parquet, ArrayRecord, and
data sets of tensorflow-datasets and of the `datasets` library, without their labels. Each is then
measured as `bench input` does; all are removed at the end. Images come in the same order, and so
all kinds make the same batches.
"""

import argparse
import io
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import given_config
from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.architectures import geometry_of
from ibot_jax.runs.check import check_config
from ibot_jax.tools.benches.input import add_input_arguments, measure

_SHARDS = 4  # tars, and files of ArrayRecord
_ROW_GROUP = 100  # of Parquet, as docs/data.md advises

Images = dict[str, bytes]  # by name


def _write_folder(images: Images, out: pathlib.Path) -> str:
    for name, data in images.items():
        (out / name).write_bytes(data)
    return f"folder:{out}"


def _write_list(images: Images, out: pathlib.Path) -> str:
    _write_folder(images, out)
    (out / "images.txt").write_text("".join(f"{name}\n" for name in images))
    return f"list:{out}/images.txt"


def _write_tar(images: Images, out: pathlib.Path) -> str:
    for shard, names in enumerate(_shares(images)):
        with tarfile.open(out / f"{shard}.tar", "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(images[name])
                tar.addfile(member, io.BytesIO(images[name]))
    return f"tar:{out}/*.tar"


def _write_zip(images: Images, out: pathlib.Path) -> str:
    with zipfile.ZipFile(out / "images.zip", "w") as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    return f"zip:{out}/images.zip"


def _write_parquet(images: Images, out: pathlib.Path) -> str:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"image": list(images.values())})
    parquet.write_table(table, out / "images.parquet", row_group_size=_ROW_GROUP)
    return f"parquet:{out}/images.parquet"


def _write_arrayrecord(images: Images, out: pathlib.Path) -> str:
    from array_record.python.array_record_module import ArrayRecordWriter

    for shard, names in enumerate(_shares(images)):
        writer = ArrayRecordWriter(f"{out}/{shard}.array_record", "group_size:1")
        for name in names:
            writer.write(images[name])
        writer.close()
    return f"arrayrecord:{out}/*.array_record"


def _write_tfds(images: Images, out: pathlib.Path) -> str:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        "images",
        version="1.0.0",
        data_dir=out,
        split_datasets={"train": [(n, {"image": data}) for n, data in enumerate(images.values())]},
        features=tfds.features.FeaturesDict({"image": tfds.features.Image()}),
        file_format="array_record",
        disable_shuffling=True,
    )
    return "tfds:images"


def _write_hf(images: Images, out: pathlib.Path) -> str:
    try:
        import datasets
    except ImportError as error:
        raise UserError("hf needs the extra hf; pip install 'ibot-jax[hf]'") from error
    datasets.disable_progress_bars()
    columns = {"image": [{"bytes": data, "path": name} for name, data in images.items()]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(out / "saved")
    return f"hf:{out}/saved"


# Each writes the images into an empty folder and returns the source; what is no file lies below it.
_KINDS: dict[str, Callable[[Images, pathlib.Path], str]] = {
    "folder": _write_folder,
    "list": _write_list,
    "tar": _write_tar,
    "zip": _write_zip,
    "parquet": _write_parquet,
    "arrayrecord": _write_arrayrecord,
    "tfds": _write_tfds,
    "hf": _write_hf,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_input_arguments(parser)
    parser.add_argument(
        "--images", type=flags.positive, default=1000, help="to write, the first ones (1000)"
    )
    parser.add_argument(
        "--number", type=flags.positive, default=2000, help="of images to time, of each kind (2000)"
    )
    parser.add_argument(
        "--kinds", default=",".join(_KINDS), metavar="KIND,...", help=f"({','.join(_KINDS)})"
    )
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = given_config(args)
    data = config.data
    data.source = args.data or data.source
    check_config(config)
    kinds = args.kinds.split(",")
    for kind in kinds:
        if kind not in _KINDS:
            raise UserError(f"--kinds={kind} is none of {', '.join(_KINDS)}")
    images = _images(data, args.images)
    report = {}
    print("kind         images/s a core  of Pillow's decoding  read, ms  transport, ms")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            out = pathlib.Path(folder) / kind
            out.mkdir()
            data.source, data.split, data.data_dir = _KINDS[kind](images, out), "train", str(out)
            report[kind] = measure(
                config.seed,
                data,
                config.masks,
                geometry_of(config.model),
                batch_size=args.batch_size,
                num_images=args.number,
            )
            print(_row(kind, report[kind]), flush=True)
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def _images(data: Any, number: int) -> Images:
    """Returns the first images of a source, by names that sort as they do."""
    source = open_source(data.source, data.split, data_dir=data.data_dir, channels=data.channels)
    if isinstance(source, TfdsStream):
        raise UserError(f"{source.name} has no random access; give a folder")
    images = {}
    for index in range(min(number, len(source))):
        suffix = pathlib.PurePath(source.describe(index)).suffix or ".jpg"
        encoded = source.fetch(source.locate(index)[0])
        if not isinstance(encoded, bytes):
            raise UserError(
                f"{source.describe(index)} is no file of its own; give a folder of files"
            )
        images[f"{index:08d}{suffix}"] = encoded
    return images


def _shares(images: Images) -> list[list[str]]:
    """Returns the names, in their order, by shard."""
    names = list(images)
    size = -(-len(names) // _SHARDS)
    return [names[start : start + size] for start in range(0, len(names), size)]


def _row(kind: str, report: dict[str, Any]) -> str:
    parts = report["part_seconds"]
    spread = "{:.2f} ({:.2f} to {:.2f})".format(*report["of_pillow"])
    return (
        f"{kind:<12} {report['images_per_second_per_core']:>15.1f}  {spread:>20}  "
        f"{1e3 * parts['read']:>8.3f}  {1e3 * parts['transport']:>13.3f}"
    )
