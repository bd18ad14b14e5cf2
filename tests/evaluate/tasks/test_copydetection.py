"""Copy detection by hand, and the whole command with a tiny model."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import write_copies

import ibot_jax
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.tasks import copydetection
from ibot_jax.parallel.shares import all_rows


@pytest.fixture
def data(tmp_path):
    return write_copies(tmp_path)


def test_originals_share_the_first_four_characters():
    originals = [epath.Path(f"original/{name}.jpg") for name in ("200000", "200100", "200101")]
    assert copydetection.find_originals(epath.Path("strong/200107.jpg"), originals) == [1, 2]
    with pytest.raises(Exception, match=r"200201\.jpg has no original: .*'2002'"):
        copydetection.find_originals(epath.Path("strong/200201.jpg"), originals)


def test_features_are_class_token_and_gem_of_patches(workdir):
    model, params = ibot_jax.load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    tokens = np.asarray(model.tokens(params, images), np.float64)
    gem = np.mean(np.maximum(tokens[:, 1:], 1e-6) ** 4, axis=1) ** 0.25
    found = copydetection.make_copy_fn(model)(params, images)
    np.testing.assert_allclose(found, np.concatenate([tokens[:, 0], gem], axis=1), rtol=1e-3)


def test_the_twenty_nearest_by_cosine_are_retrieved():
    rng = np.random.default_rng(0)
    queries, database = rng.normal(size=(3, 5)), rng.normal(size=(50, 5))
    cosine = queries @ (database / np.linalg.norm(database, axis=1, keepdims=True)).T
    expected = np.argsort(-cosine, axis=1)[:, :20]
    np.testing.assert_array_equal(copydetection.rank(queries, database), expected)
    assert copydetection.rank(queries, database[:4]).shape == (3, 4)


def test_every_image_is_in_the_batches_once(data):
    files = sorted(epath.Path(data / "others").iterdir())
    batches = list(copydetection.square_batches(files, 8, Decoding(), all_rows(16)))
    assert [batch["valid"].sum() for batch in batches] == [16, 16, 8]
    pixels = np.concatenate([batch["images"][batch["valid"]] for batch in batches])
    for row, file in zip(pixels, files, strict=True):
        square = Image.open(file).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(row, square)


@pytest.mark.slow
def test_the_command_finds_copies(data, workdir, tmp_path):
    out = tmp_path / "out"
    flags = [f"--from={workdir}", f"--data={data}", f"--out={out}", "--size=16", "--batch-size=8"]
    flags += [f"--distractors={data / 'others'}", f"--whitening={data / 'others'}"]
    assert command.main(["copydetection", *flags]) == 0
    report = json.loads((out / "copydetection.json").read_text())
    (row,) = report["rows"]
    assert (row["queries"], row["originals"], row["distractors"]) == (12, 8, 40)
    assert report["metrics"]["map"] > 50  # a random model keeps colours apart


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=nowhere"], "nowhere/strong is no folder"),
        (["--whitening=nowhere"], "nowhere is no folder"),
        (["--size=3"], "--size=3 is less than a patch of 4"),
        (["--batch-size=9"], "--batch-size=9 is no multiple of the 8 devices"),
    ],
)
def test_mistakes_are_one_line_and_status_2(data, mistake, flags, message):
    assert message in mistake("copydetection", data, *flags)


def test_an_image_that_is_none_is_named(data, workdir, tmp_path, capsys):
    (data / "strong/200001.jpg").write_bytes(b"no image")
    common = [f"--from={workdir}", f"--data={data}", f"--out={tmp_path / 'out'}", "--batch-size=8"]
    assert command.main(["copydetection", *common, "--size=8"]) == 2
    assert "strong/200001.jpg cannot be read" in capsys.readouterr().err
