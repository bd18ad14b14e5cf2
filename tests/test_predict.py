"""Classes in a file are those of the fine-tuned model, image by image."""

import csv

import jax
import numpy as np
import pytest
from archived import as_tar
from etils import epath
from finetuned import NAMES, expected_logits, make_finetuned
from PIL import Image
from runs import save_run
from tiny import tiny_config, tiny_plan

from ibot_jax import export, predict
from ibot_jax.runs.training import make_init

FILES = [f"{folder}/{i}.png" for folder in ("birds", "ünder way/deep") for i in range(5)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Returns the folder of a fine-tuning, and what classifies as it does."""
    folder = epath.Path(tmp_path_factory.mktemp("runs")) / "tuned"
    return folder, *make_finetuned(folder, projection=8)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (len(FILES), 18, 22, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("images")
    for name, image in zip(FILES, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / "birds/3.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def classify(tuned, images, tmp_path, capsys):
    """Returns a function that runs the command: status, stdout, stderr."""

    def run(*flags):
        defaults = {"from": tuned[0], "data": images, "out": tmp_path / "classes.csv"}
        given = {flag.partition("=")[0] for flag in flags}
        common = [f"--{k}={v}" for k, v in defaults.items() if f"--{k}" not in given]
        sizes = ["--size=16", "--resize=18", "--batch-size=8"]
        status = predict.main([*common, *sizes, *flags])
        return status, *capsys.readouterr()

    return run


def test_classes_and_probabilities_are_those_of_the_model(classify, tuned, pixels, tmp_path):
    status, out, err = classify("--top=2")
    assert status == 0, err
    assert out == f"9 images, 1 skipped: {tmp_path / 'classes.csv'}\n"
    _, module, params = tuned
    probabilities = jax.nn.softmax(expected_logits(module, params, pixels[:, 1:17, 3:19]))
    readable = [place for place, name in enumerate(FILES) if name != "birds/3.png"]
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [FILES[place] for place in readable]
    for row, place in zip(rows, readable, strict=True):
        expected = np.asarray(probabilities[place])
        first, second = np.argsort(-expected)[:2]
        assert (row["class"], row["class_2"]) == (NAMES[first], NAMES[second])
        assert float(row["probability"]) == pytest.approx(expected[first], abs=1e-4)
        assert float(row["probability_2"]) == pytest.approx(expected[second], abs=1e-4)


def test_an_export_and_images_in_a_tar_give_the_same(classify, tuned, images, tmp_path):
    assert classify()[0] == 0
    first = (tmp_path / "classes.csv").read_text()
    export.export(str(tuned[0]), str(tmp_path / "tuned.npz"), to="npz", head=True)
    flags = f"--from={tmp_path / 'tuned.npz'}", f"--data={as_tar(images, tmp_path)}"
    assert classify(*flags, f"--out={tmp_path / 'again.csv'}")[0] == 0
    again = (tmp_path / "again.csv").read_text()
    assert again.replace("train-000.tar/", "") == first


def test_an_interrupted_command_goes_on(classify, images, tmp_path, monkeypatch):
    """After whole batches, of which a kill may have cut the last line short."""
    assert classify("--top=2", f"--out={tmp_path / 'whole.csv'}")[0] == 0
    likeliest, starts = predict.likeliest, []

    def ended(*args):
        yield next(likeliest(*args))
        raise KeyboardInterrupt

    def noted(*args):
        starts.append(args[-1])
        return likeliest(*args)

    monkeypatch.setattr(predict, "likeliest", ended)
    status, out, err = classify("--top=2")
    assert (status, out) == (130, "") and "the same command goes on" in err
    unfinished = tmp_path / "classes.csv.unfinished"
    with unfinished.open("a") as file:
        file.write('{"stop": 10, "lines": [["bi')
    monkeypatch.setattr(predict, "likeliest", noted)
    status, _, err = classify("--top=1")
    assert status == 2 and "is of other images, weights or flags; remove it" in err
    assert classify("--top=2")[0] == 0 and starts == [8]
    whole, again = (tmp_path / f"{name}.csv" for name in ("whole", "classes"))
    assert again.read_bytes() == whole.read_bytes() and not unfinished.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top=4"], "--top=4 is more than the 3 classes of "),
        (["--out=classes.txt"], "--out=classes.txt is no .csv"),
        (["--data=nowhere"], "nowhere"),
        (["--split=birds", "--data=tar:x-*.tar"], "x-*.tar"),
    ],
)
def test_mistakes_are_one_line_and_status_2(classify, flags, message):
    status, out, err = classify(*flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_what_has_no_classes_is_told(classify, tuned, tmp_path):
    export.export(str(tuned[0]), str(tmp_path / "bare.npz"), to="npz")
    status, _, err = classify(f"--from={tmp_path / 'bare.npz'}")
    assert status == 2 and "export it anew with --head" in err
    config = tiny_config()
    state = make_init(config, tiny_plan(config))(jax.random.key(0))
    status, _, err = classify(f"--from={save_run(tmp_path / 'run', config, state)}")
    assert status == 2 and "has no classifier; give a fine-tuning" in err


def test_an_existing_file_stays(classify, tmp_path):
    (tmp_path / "classes.csv").write_text("mine")
    status, _, err = classify()
    assert status == 2 and "exists; choose another path, or --overwrite" in err
    assert (tmp_path / "classes.csv").read_text() == "mine"
