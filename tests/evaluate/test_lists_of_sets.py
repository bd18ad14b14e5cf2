"""The commands that docs/evaluations.md gives to make lists of sets, on sets made small."""

import json
import pathlib
import subprocess

import pytest

from ibot_jax.data.sources.opening import open_source

PAGE = pathlib.Path(__file__).parents[2] / "docs/evaluations.md"


def run_those_with(word, folder):
    """Runs the commands of the page that have a word in them."""
    lines = [line.strip() for line in PAGE.read_text().splitlines()]
    commands = [line for line in lines if word in line and "> " in line]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["bash", "-euc", command], cwd=folder, check=True)


def inaturalist(root):
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        images = [
            {"id": 1, "file_name": f"train_val2018/{group}/{label}/{name}.jpg"}
            for group, label in (("Aves", 0), ("Plantae", 1))
            for name in names
        ]
        (root / f"{split}2018.json").write_text(json.dumps({"images": images, "annotations": []}))
    return root


def places(root):
    (root / "trainvalsplit_places205").mkdir()
    (root / "images256").mkdir()
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        lines = [
            f"{group}/{name}.jpg {label}"
            for group, label in (("a/abbey", 0), ("b/bar", 1))
            for name in names
        ]
        (root / f"trainvalsplit_places205/{split}_places205.csv").write_text("\n".join(lines))
    return root / "images256"


@pytest.mark.parametrize(
    ("write", "word", "first"),
    [
        (inaturalist, "2018.json", "train_val2018/Aves/0/a.jpg"),
        (places, "_places205.csv", "a/abbey/a.jpg"),
    ],
)
def test_both_splits_have_the_same_classes(tmp_path, write, word, first):
    folder = write(tmp_path)
    run_those_with(word, folder)
    train, val = (open_source(f"list:{folder}/{{split}}.csv", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert train.class_names == val.class_names == ["0", "1"]
    assert train.relative_name(0) == first
    assert [train.locate(index)[1] for index in range(4)] == [0, 0, 1, 1]
