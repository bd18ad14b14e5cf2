"""Images of a folder once more: in larger files, in lists and as a data set of a library."""

import csv
import io
import json
import shutil
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibot_jax.data.sources.folders import FolderSource


def contents(folder):
    """Returns (relative name, bytes, label) of the images of a folder, in their order."""
    source = FolderSource(str(folder), "train")
    places = range(len(source))
    return [
        (source.relative_name(i), source.fetch(source.locate(i)[0]), source.locate(i)[1])
        for i in places
    ]


def parts(items, count):
    """Returns the items in so many parts, one after the other."""
    size = -(-len(items) // count)
    return [items[start : start + size] for start in range(0, len(items), size)]


def write_tar(path, files):
    """Writes (name, bytes) pairs."""
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def as_tar(folder, out, count=1):
    """Writes a folder as tars of its files; returns the source."""
    for number, some in enumerate(parts(contents(folder), count)):
        write_tar(out / f"train-{number:03d}.tar", [item[:2] for item in some])
    return f"tar:{out}/{{split}}-*.tar"


def as_webdataset(folder, out, count=2):
    """Writes a folder as WebDataset's shards; returns the source."""
    for number, some in enumerate(parts(list(enumerate(contents(folder))), count)):
        files = []
        for index, (name, data, label) in some:
            key = f"{index:06d}"
            files += [
                (f"{key}.cls", str(label).encode()),
                (f"{key}.{name.rpartition('.')[2]}", data),
                (f"{key}.json", json.dumps({"name": name}).encode()),
            ]
        write_tar(out / f"web-{number:03d}.tar", files)
    return f"tar:{out}/web-{{000..{count - 1:03d}}}.tar"


def as_zip(folder, out, compression=zipfile.ZIP_DEFLATED):
    """Writes a folder as a zip; returns the source."""
    with zipfile.ZipFile(out / "train.zip", "w", compression) as archive:
        for name, data, _ in contents(folder):
            archive.writestr(name, data)
    return f"zip:{out}/train.zip"


def as_parquet(folder, out, rows=3):
    """Writes a folder as the `datasets` library does; returns the source."""
    items = contents(folder)
    names = sorted({name.split("/")[0] for name, _, _ in items})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pa.table(
        {
            "label": [label for _, _, label in items],
            "image": [{"bytes": data, "path": name} for name, data, _ in items],
        }
    )
    told = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": told})
    pq.write_table(table, out / "train-0.parquet", row_group_size=rows)
    return f"parquet:{out}/{{split}}-*.parquet"


def write_arrayrecord(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def as_arrayrecord(folder, out, count=2):
    """Writes a folder as tensorflow-datasets does, in an Example a record; returns the source."""
    import tensorflow as tf

    def feature(**of_kind):
        return tf.train.Feature(**of_kind)

    for number, some in enumerate(parts(contents(folder), count)):
        records = []
        for name, data, label in some:
            told = {
                "image": feature(bytes_list=tf.train.BytesList(value=[data])),
                "label": feature(int64_list=tf.train.Int64List(value=[label])),
                "file_name": feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
                "score": feature(float_list=tf.train.FloatList(value=[0.5, 1.5])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=told))
            records.append(example.SerializeToString())
        write_arrayrecord(out / f"set-train.array_record-{number:05d}-of-{count:05d}", records)
    return f"arrayrecord:{out}/set-{{split}}.array_record-*"


def as_hf(folder, out):
    """Writes a folder as `save_to_disk` does; returns the source. Skips without the library."""
    datasets = pytest.importorskip("datasets")
    items = contents(folder)
    names = sorted({name.split("/")[0] for name, _, _ in items})
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    columns = {
        "image": [{"bytes": data, "path": name} for name, data, _ in items],
        "label": [label for _, _, label in items],
    }
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.disable_progress_bars()
    rows.save_to_disk(out / "saved")
    return f"hf:{out}/saved"


def as_tfds(folder, out):
    """Has tensorflow-datasets prepare a folder in its order; returns the source, of `out`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    source = FolderSource(str(folder), "train")
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=source.class_names),
    }
    examples = [
        (i, {"image": source.describe(i), "label": source.locate(i)[1]}) for i in range(len(source))
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        "images_of_a_folder",
        version="1.0.0",
        data_dir=out,
        split_datasets={"train": examples},
        features=tfds.features.FeaturesDict(features),
        file_format="array_record",
        disable_shuffling=True,
    )
    return "tfds:images_of_a_folder"


def as_list(folder, out):
    """Writes a list of the files of a folder; returns the source."""
    with (out / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path"])
        writer.writerows((name.split("/")[0], folder / name) for name, _, _ in contents(folder))
    return f"list:{out}/{{split}}.csv"


def as_folder(folder, out):
    """Copies a folder; returns the source."""
    shutil.copytree(folder, out / "images")
    return f"folder:{out}/images"


KINDS = {
    "tar": as_tar,
    "webdataset": as_webdataset,
    "zip": as_zip,
    "parquet": as_parquet,
    "arrayrecord": as_arrayrecord,
    "hf": as_hf,
    "list": as_list,
}
ALL = {"folder": as_folder, **KINDS, "tfds": as_tfds}  # tfds with data_dir=out
# Kinds with a feature that not all have; the table in docs/data.md shows these lists.
INDEXED = ("tar", "webdataset", "zip", "parquet", "arrayrecord")
OF_URLS = ("folder", "tar", "webdataset", "zip", "parquet", "list")
OF_CLASSES = ("folder", *KINDS)  # whose labels are known without reading the images
