"""Sources of which something is broken: it is counted and named, and a run resumes as exactly."""

import itertools
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archived import ALL, as_tar, as_tfds, as_zip, contents, write_arrayrecord, write_tar
from shares import blocks
from tiny import pipeline_settings

from ibot_jax.config.plan import make_plan
from ibot_jax.data.pipeline import train_batches
from ibot_jax.data.sources.opening import open_source
from ibot_jax.parallel.shares import all_rows


def cut_off_tar(folder, out):
    spec = as_tar(folder, out)
    path = out / "train-000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return open_source(spec, "train"), []


def replaced_shard(folder, out):
    """Another one lies there since the source was opened, in which image 10 is what it was."""
    spec = as_tar(folder, out, count=2)
    source = open_source(spec, "train")
    files = contents(folder)
    write_tar(out / "train-001.tar", [files[10][:2], *([f"{n}.png", b"x"] for n in range(300))])
    return source, range(11, 20)


def parquet_without_some(folder, out):
    images = [data if index not in (3, 8) else None for index, (_, data, _) in items(folder)]
    pq.write_table(pa.table({"image": images}), out / "a.parquet", row_group_size=4)
    return open_source(f"parquet:{out}/a.parquet", "train"), [3, 8]


def records_that_are_no_images(folder, out):
    images = [data if index != 5 else b"\x0anone" for index, (_, data, _) in items(folder)]
    write_arrayrecord(out / "a.array_record", images)
    return open_source(f"arrayrecord:{out}/a.array_record", "train"), [5]


def rows_without_images(folder, out):
    datasets = pytest.importorskip("datasets")
    images = [data if index != 4 else None for index, (_, data, _) in items(folder)]
    datasets.Dataset.from_dict({"image": images}).save_to_disk(out / "saved")
    return open_source(f"hf:{out}/saved", "train"), [4]


def dead_paths(folder, out):
    lines = [
        f"{folder}/{name if index != 6 else 'gone.png'}" for index, (name, *_) in items(folder)
    ]
    (out / "a.txt").write_text("\n".join(lines))
    return open_source(f"list:{out}/a.txt", "train"), [6]


def damaged_zip(folder, out):
    spec = as_zip(folder, out, zipfile.ZIP_STORED)
    source = open_source(spec, "train")
    path, start, size = source.locate(12)[0]
    with open(path, "r+b") as file:
        file.seek(start + 60 + size // 2)
        file.write(b"damage")
    return source, [12]


def folder_with_none(folder, out):
    (folder / "b/003.png").write_bytes(b"none")
    return open_source(f"folder:{folder}", "train"), [13]


def prepared_with_none(folder, out):
    (folder / "a/002.png").write_bytes(b"none")
    return open_source(as_tfds(folder, out), "train", data_dir=str(out)), [2]


def items(folder):
    return enumerate(contents(folder))


BREAK = {
    "folder": [folder_with_none],
    "tar": [cut_off_tar, replaced_shard],
    "zip": [damaged_zip],
    "parquet": [parquet_without_some],
    "arrayrecord": [records_that_are_no_images],
    "hf": [rows_without_images],
    "list": [dead_paths],
    "tfds": [prepared_with_none],
}


def test_something_is_broken_of_each_kind():
    assert BREAK.keys() == ALL.keys() - {"webdataset"}


@pytest.mark.parametrize("broken", itertools.chain.from_iterable(BREAK.values()))
def test_what_is_broken_is_counted_named_and_resumed_exactly(
    broken, config, make_folder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    source, bad = broken(make_folder("a", "b"), tmp_path / "out")
    config.data.max_bad_share = 1.0
    plan = make_plan(config, len(source))
    settings = pipeline_settings(config)
    running = train_batches(source, plan, all_rows(8), **settings)
    whole = list(running)
    assert len(whole) == plan.total_steps
    told = [f"skipped {source.describe(place)}:" for place in range(len(source))]
    named = [place for place, text in enumerate(told) if text in caplog.text]
    # All but those that fall out at the end of an epoch, or are no stand-in.
    assert running.bad_images == len(named) and set(named) <= set(bad)
    assert len(named) >= len(bad) - 1
    (half, _) = blocks(8, 2)
    for rows, start in ((all_rows(8), 1), (half, 0)):
        found = list(train_batches(source, plan, rows, start_step=start, **settings))
        for batch, expected in zip(found, whole[start:], strict=True):
            for name, array in expected.items():
                np.testing.assert_array_equal(batch[name], array[rows.numbers])
