"""Data sets of the `datasets` library: splits, columns, what may be wrong; nothing is decoded."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from servers import hub

from ibot_jax.data.sources.opening import open_source, splits_for_testing
from ibot_jax.data.sources.shared_images import find_shared
from ibot_jax.errors import UserError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows(numbers, **columns):
    images = [{"bytes": png(number), "path": None} for number in numbers]
    return datasets.Dataset.from_dict({"image": images, **columns}).cast_column(
        "image", datasets.Image()
    )


def fetched(source):
    return [source.fetch(source.locate(index)[0]) for index in range(len(source))]


@pytest.fixture
def saved(tmp_path):
    """Returns the source of a data set with four images to train and two to test on."""
    splits = {"train": rows(range(4), label=[1, 0, 1, 0]), "test": rows([7, 8], label=[0, 1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return f"hf:{tmp_path}/saved"


def test_splits_and_parts(saved):
    assert splits_for_testing(saved) == ["test"]
    assert fetched(open_source(saved, "test")) == [png(7), png(8)]
    source = open_source(saved, "train[25%:]")
    assert fetched(source) == [png(1), png(2), png(3)] and source.labels.tolist() == [0, 1, 0]
    assert fetched(open_source(saved, "train[3:]+test")) == [png(3), png(7), png(8)]
    assert find_shared(open_source(saved, "train[:50%]"), source).count == 1
    assert find_shared(source, open_source(saved, "test")).count == 0
    assert source.relative_name(0) == "data-00000-of-00001.arrow/row 1"
    with pytest.raises(UserError, match=r"data.split='val' is not in .*; it has train, test and"):
        open_source(saved, "val", key="data.split")
    with pytest.raises(UserError, match="is not in .*; it has train, test and parts"):
        open_source(saved, "train[a:]")
    with pytest.raises(UserError, match="is empty"):
        open_source(saved, "train[:0]")


def test_a_split_may_be_named_with_the_data_set(saved):
    assert fetched(open_source(f"{saved}:test", "train")) == [png(7), png(8)]
    assert splits_for_testing(f"{saved}:test") == []
    with pytest.raises(UserError, match="is not in .*which has one split, test; write hf:/"):
        open_source(f"{saved}:test", "val")


def test_columns_are_found_or_named(tmp_path):
    table = {"photo": [png(1), png(2)], "mask": [b"1", b"2"], "kind": ["x", "y"]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "a")
    with pytest.raises(UserError, match="none is known to hold images: photo, mask, kind; name it"):
        open_source(f"hf:{tmp_path}/a", "train")
    source = open_source(f"hf:{tmp_path}/a#photo,kind", "train")
    assert fetched(source) == [png(1), png(2)] and source.class_names == ["x", "y"]
    with pytest.raises(UserError, match="has no column 'pic'; it has photo, mask, kind"):
        open_source(f"hf:{tmp_path}/a#pic", "train")
    datasets.Dataset.from_dict({"image": [png(1), None]}).save_to_disk(tmp_path / "b")
    source = open_source(f"hf:{tmp_path}/b", "train")
    assert source.fetch(source.locate(0)[0]) == png(1) and source.num_classes is None
    with pytest.raises(ValueError, match="the row has no image"):
        source.fetch(source.locate(1)[0])


@pytest.mark.parametrize(("names", "expected"), [("mask image", 1), ("mask img", 1), ("x", 0)])
def test_of_several_images_the_one_that_is_called_so_is_taken(names, expected, tmp_path):
    """Whatever their order; of others the user is asked."""
    columns = {
        name: [{"bytes": png(10 * place), "path": None}] for place, name in enumerate(names.split())
    }
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "a")
    source = open_source(f"hf:{tmp_path}/a", "train")
    assert fetched(source) == [png(10 * expected)]


def test_of_several_images_that_are_called_otherwise_the_user_names_one(tmp_path):
    columns = {name: [{"bytes": png(3), "path": None}] for name in ("left", "right")}
    columns["label"] = [2]
    features = datasets.Features(
        {"left": datasets.Image(), "right": datasets.Image(), "label": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "a")
    with pytest.raises(UserError, match="none is known to hold images: left, right, label; name"):
        open_source(f"hf:{tmp_path}/a", "train")
    assert fetched(open_source(f"hf:{tmp_path}/a#right", "train")) == [png(3)]
    with pytest.raises(UserError, match="the column 'label' of .* holds int64; images are bytes"):
        open_source(f"hf:{tmp_path}/a#label", "train")


def test_a_class_label_of_minus_one_is_none(tmp_path, caplog):
    labelled = rows(range(3), label=[1, -1, 0])
    labelled = labelled.cast_column("label", datasets.ClassLabel(names=["x", "y"]))
    labelled.save_to_disk(tmp_path / "a")
    labelled.to_parquet(str(tmp_path / "a.parquet"))
    for spec in (f"hf:{tmp_path}/a", f"parquet:{tmp_path}/a.parquet"):
        caplog.clear()
        source = open_source(spec, "train", data_dir=str(tmp_path))
        assert source.num_classes is None and "1 of 3 images have none" in caplog.text


def test_a_folder_that_the_library_loads(tmp_path, monkeypatch):
    """Whose rows name files: these are read where they are, and not decoded."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        path = tmp_path / "images" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number) if number else b"no image")
    source = open_source(f"hf:{tmp_path}/images", "train")
    assert fetched(source) == [b"no image", png(2), png(1), png(3)]
    assert source.class_names == ["a", "b"] and source.locate(3)[1] == 1


def parquet(numbers):
    buffer = io.BytesIO()
    rows(numbers, label=[number % 2 for number in numbers]).to_parquet(buffer)
    return buffer.getvalue()


def test_names_of_the_hub(tmp_path):
    """A data set with two configs, of which one is named, and none of the other is fetched."""
    card = """---
configs:
- config_name: small
  data_files: data/train-0.parquet
- config_name: large
  data_files: data/train-1.parquet
---
"""
    files = {
        "README.md": card.encode(),
        "data/train-0.parquet": parquet([4, 7]),
        "data/train-1.parquet": b"none",
    }
    code = """
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import UserError
source = open_source("hf:org/name/small", "train")
print(*(source.fetch(source.locate(index)[0]).hex() for index in range(len(source))))
print(source.labels.tolist(), source.relative_name(1))
for wrong in ("hf:org/name", "hf:org/other"):
    try:
        open_source(wrong, "train")
    except UserError as error:
        print(error)
"""
    with hub("org/name", files) as url:
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    images, labels, several, absent = done.stdout.splitlines()
    assert images.split() == [png(4).hex(), png(7).hex()]
    assert labels == "[0, 1] name-train.arrow/row 1"
    assert "cannot be opened: Config name is missing. Please pick one among" in several
    assert "'small'" in several and "'large'" in several
    assert "cannot be opened: Dataset 'org/other' doesn't exist" in absent


def test_mistakes_are_told(tmp_path, monkeypatch):
    def load_dataset(*names):
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        UserError, match=r"cannot be opened: Config name is missing. Please pick .*"
    ):
        open_source("hf:org/name", "train")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=rows([1])))
    with pytest.raises(UserError, match="or not in files; write it anew with save_to_disk"):
        open_source("hf:org/name", "train")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="cannot be opened: .*; give a folder that save_to_disk"):
        open_source(f"hf:{tmp_path}", "train")
    with pytest.raises(UserError, match="hf: reads folders on a disk and data sets of the hub"):
        open_source("hf:s3://bucket/name", "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"the datasets library; pip install 'ibot-jax\[hf\]'"):
        open_source("hf:org/name", "train")
